use proptest::prelude::*;

use super::*;

fn mark(n: u64) -> Watermark {
    Watermark { epoch: Epoch(n), seq: n + 1, bytes: n * 4096, at: Moment(n + 9) }
}

fn op() -> impl Strategy<Value = (u64, Op)> {
    prop_oneof![
        prop::collection::vec(any::<u8>(), 1..300)
            .prop_map(|data| (data.len() as u64, Op::Write(Arc::from(data)))),
        (1u64..1 << 40).prop_map(|len| (len, Op::Trim)),
        (1u64..1 << 40).prop_map(|len| (len, Op::Zero)),
    ]
}

fn record() -> impl Strategy<Value = Record> {
    (any::<u16>(), 0u64..1 << 50, any::<u64>(), op()).prop_map(|(disk, offset, seq, (len, op))| Record {
        seq,
        epoch: Epoch(seq / 2),
        at: Moment(seq / 3),
        bytes: seq / 4,
        disk,
        offset,
        len,
        op,
    })
}

fn message() -> impl Strategy<Value = Message> {
    let blocks = prop::collection::vec(record(), 0..6).prop_map(|records| {
        let block = |r: Record| Block { disk: r.disk, offset: r.offset, len: r.len, op: r.op };
        Message::Blocks(records.into_iter().map(block).collect())
    });
    let refused = (0usize..7, ".{0,20}").prop_map(|(which, text)| {
        let reasons = [
            Reason::Stale { highest: Token::new(3, Epoch(9)) },
            Reason::UnknownItem,
            Reason::WrongShape,
            Reason::WrongSecret,
            Reason::WrongVersion,
            Reason::Busy,
            Reason::Failed,
        ];
        Message::Refused(Refused { reason: reasons[which], text })
    });
    prop_oneof![
        (".{0,30}", prop::collection::vec(any::<u64>(), 0..4)).prop_map(|(item, disks)| Message::Hello(
            Hello {
                protocol: PROTOCOL,
                item,
                source: "paris".into(),
                secret: "s".into(),
                token: Token::new(1, Epoch(7)),
                disks,
                head: mark(3),
            }
        )),
        (any::<bool>(), any::<bool>(), any::<u32>()).prop_map(|(some, catching_up, diverged_frames)| {
            Message::Welcome { durable: some.then(|| mark(4)), catching_up, diverged_frames }
        }),
        prop::collection::vec((any::<u16>(), 0u64..99, 1u64..99), 0..9).prop_map(|ranges| {
            Message::Diverged(
                ranges.into_iter().map(|(disk, offset, len)| Range { disk, offset, len }).collect(),
            )
        }),
        refused,
        (any::<bool>(), prop::collection::vec(record(), 0..6))
            .prop_map(|(urgent, records)| Message::Records { head: mark(8), urgent, records }),
        blocks,
        (0u64..99).prop_map(|n| Message::BeginCatchUp { from: mark(n) }),
        (0u64..99).prop_map(|n| Message::EndCatchUp { at: mark(n) }),
        prop::option::of("[a-z]{0,9}").prop_map(|name| {
            Message::Point(PointFrame { at: mark(2), taken: Moment(5), kind: PointKind::Named, name })
        }),
        any::<bool>().prop_map(|urgent| Message::Alive { head: mark(1), urgent }),
        any::<u64>().prop_map(|n| Message::Ack(Ack {
            consumed: n,
            synced: n / 2,
            durable: mark(7),
            differed: 5
        })),
    ]
}

fn decode_all(bytes: &[u8], step: usize, limit: usize) -> Result<Vec<Frame>, FrameError> {
    let mut decoder = Decoder::new(limit);
    let mut frames = Vec::new();
    for mut chunk in bytes.chunks(step.max(1)) {
        decoder.fill(&mut chunk).unwrap();
        while let Some((frame, _)) = decoder.next_frame()? {
            frames.push(frame);
        }
    }
    Ok(frames)
}

proptest! {
    #[test]
    fn frames_round_trip_however_they_are_cut(
        messages in prop::collection::vec(message(), 1..5), step in 1usize..200, compress in any::<bool>()
    ) {
        let token = Token::new(1, Epoch(7));
        let mut bytes = Vec::new();
        messages.iter().for_each(|message| encode(token, message, compress, &mut bytes));
        let frames = decode_all(&bytes, step, PAYLOAD_LEN_MAX).unwrap();
        let expected: Vec<_> = messages.into_iter().map(|message| Frame { token, message }).collect();
        prop_assert_eq!(frames, expected);
    }

    #[test]
    fn noise_never_panics(bytes in prop::collection::vec(any::<u8>(), 0..500), step in 1usize..100) {
        let _ = decode_all(&bytes, step, PAYLOAD_LEN_MAX);
        for kind in 0..=12 {
            let _ = decode_payload(Token::default(), kind, &bytes);
        }
        let _ = expand(&bytes, HELLO_LEN_MAX);
    }

    #[test]
    fn a_flipped_bit_is_seen(message in message(), at in any::<prop::sample::Index>(), bit in 0u8..8) {
        let mut bytes = Vec::new();
        encode(Token::new(1, Epoch(7)), &message, false, &mut bytes);
        let index = at.index(bytes.len());
        bytes[index] ^= 1 << bit;
        // A longer announced length waits for bytes that never come; everything else is an error.
        prop_assert!(decode_all(&bytes, 4096, PAYLOAD_LEN_MAX).map_or(true, |frames| frames.is_empty()));
    }
}

#[test]
fn an_announced_length_allocates_nothing() {
    let mut header = vec![0; HEADER_LEN];
    header[0..4].copy_from_slice(&u32::MAX.to_le_bytes());
    let error = decode_all(&header, 4096, HELLO_LEN_MAX).unwrap_err();
    assert_eq!(error, FrameError::TooLong { len: u32::MAX as usize, limit: HELLO_LEN_MAX });
}

#[test]
fn compression_is_used_only_where_it_pays() {
    let blocks = |data: Vec<u8>| {
        Message::Blocks(vec![Block {
            disk: 0,
            offset: 0,
            len: data.len() as u64,
            op: Op::Write(Arc::from(data)),
        }])
    };
    let size = |message: &Message| {
        let mut out = Vec::new();
        encode(Token::default(), message, true, &mut out);
        assert_eq!(decode_all(&out, 1000, PAYLOAD_LEN_MAX).unwrap()[0].message, *message);
        out.len()
    };
    assert!(size(&blocks(vec![7; 100_000])) < 2_000);
    let mut seed = 1u64;
    let noise = (0..100_000).map(|_| {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (seed >> 33) as u8
    });
    assert!(size(&blocks(noise.collect())) > 100_000);
}
