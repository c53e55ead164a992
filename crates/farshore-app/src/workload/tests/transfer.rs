//! What is taken out in pieces.

use base64::Engine as _;

use super::*;

/// An export that is asked for piece by piece.
struct Taken {
    commit: Value,
    bytes: Vec<u8>,
    len: u64,
    next: Option<u64>,
}

async fn begin(place: &Place) -> Taken {
    let first = place.ask(json!({ "ask": "export", "what": "scripts" })).await.unwrap();
    let len = first["len"].as_u64().unwrap();
    let mut taken = Taken { commit: first["commit"].clone(), bytes: Vec::new(), len, next: None };
    taken.take(&first);
    taken
}

impl Taken {
    fn take(&mut self, piece: &Value) {
        assert_eq!((&piece["commit"], piece["len"].as_u64()), (&self.commit, Some(self.len)));
        let data = piece["data"].as_str().unwrap();
        self.bytes.extend(base64::engine::general_purpose::STANDARD.decode(data).unwrap());
        self.next = piece["next"].as_u64();
    }

    fn question(&self) -> Value {
        json!({ "ask": "export", "what": "scripts", "commit": self.commit, "offset": self.next })
    }

    async fn finish(mut self, place: &Place) -> Vec<u8> {
        while self.next.is_some() {
            let piece = place.ask(self.question()).await.unwrap();
            self.take(&piece);
        }
        assert_eq!(self.bytes.len() as u64, self.len);
        self.bytes
    }
}

async fn packed(place: &Place, commit: &Value) -> Vec<u8> {
    let tar = place.dir.path().join("expected.tar");
    place.item().stock.repository.archive(commit.as_str().unwrap(), &tar).await.unwrap();
    std::fs::read(tar).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn exports_at_once_take_nothing_from_each_other() {
    let paris = Place::open("paris", &Arc::default()).await;
    paris.act(1, Action::Create { spec: spec() }).await.unwrap();
    let big = |word: &str| word.repeat(3 << 20);
    assert!(paris.push(&[("release.txt", "one"), ("big.txt", &big("1"))]).await.status.success());
    let one = begin(&paris).await;
    let same = begin(&paris).await;
    let commit = one.commit.clone();
    assert!(one.next.is_some());
    assert!(paris.push(&[("release.txt", "two"), ("big.txt", &big("2"))]).await.status.success());
    let other = begin(&paris).await;
    assert_ne!(other.commit, commit);
    let expected = packed(&paris, &commit).await;
    assert!(one.finish(&paris).await == expected && same.finish(&paris).await == expected);
    let expected = packed(&paris, &other.commit).await;
    assert!(other.finish(&paris).await == expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_export_whose_archive_is_gone_is_begun_again() {
    let paris = Place::open("paris", &Arc::default()).await;
    paris.act(1, Action::Create { spec: spec() }).await.unwrap();
    let files = [("release.txt", "one"), ("big.txt", &"1".repeat(2 << 20))];
    assert!(paris.push(&files).await.status.success());
    let one = begin(&paris).await;
    let beyond = json!({ "ask": "export", "what": "scripts", "commit": one.commit, "offset": one.len + 1 });
    assert!(paris.ask(beyond).await.is_err());
    std::fs::remove_dir_all(paris.dir.path().join("apps/todo/exports")).unwrap();
    let gone = paris.ask(one.question()).await.unwrap_err();
    assert!(matches!(gone, StepError::Fatal { .. }) && gone.to_string().contains("again"), "{gone}");
    let unnamed = paris.ask(json!({ "ask": "export", "what": "scripts", "offset": 9 })).await.unwrap_err();
    assert!(unnamed.to_string().contains("the commit of its first piece"), "{unnamed}");
    let astray = json!({ "ask": "export", "what": "scripts", "commit": "../x", "offset": 0 });
    assert!(paris.ask(astray).await.unwrap_err().to_string().contains("hexadecimal"));
    let again = begin(&paris).await;
    let expected = packed(&paris, &again.commit).await;
    assert!(again.finish(&paris).await == expected);
}
