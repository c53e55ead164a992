//! A transaction of the port as a transaction of etcd, and what its outcome means.

use farshore_core::store::{CommitError, Compare, Revision, Transaction, Write};
use tokio::time::Instant;

use super::Keys;
use super::members::{CallError, Members};
use super::wire::{
    Answer as _, Bytes, CompareTerm, RangeRequest, Refusal, RequestOp, ResponseOp, TxnAnswer, TxnRequest,
};
use crate::rules;

type Meaning = fn(String) -> CommitError;

/// etcd's own words for what it refuses before anything is done, and what they mean here.
const REFUSALS: &[(&str, Meaning)] = &[
    ("etcdserver: mvcc: database space exceeded", |text| {
        CommitError::Unavailable(format!(
            "{text}: compact and defragment etcd, then disarm the alarm (etcdctl alarm disarm)"
        ))
    }),
    ("etcdserver: permission denied", |text| {
        CommitError::Unavailable(format!(
            "{text}: give the client certificate's user the rights to the prefix"
        ))
    }),
    ("etcdserver: request is too large", CommitError::Invalid),
    ("etcdserver: too many operations in txn request", CommitError::Invalid),
];

/// Commits through the preferred member; through the next only while surely nothing was sent.
pub(super) async fn commit(
    members: &Members,
    keys: &Keys,
    transaction: Transaction,
) -> Result<Revision, CommitError> {
    let deadline = members.deadline();
    let request = request(keys, &transaction);
    let mut failures = Vec::new();
    for index in members.order() {
        if Instant::now() >= deadline {
            break;
        }
        if !members.is_proven(index)
            && let Err(why) = members.prove(index, &keys.hidden(), share(members, deadline)).await
        {
            failures.push(why.to_string());
            continue;
        }
        match members.call::<TxnAnswer>(index, "/v3/kv/txn", &request, deadline).await {
            Ok(answer) => {
                members.prefer(index);
                return outcome(&transaction, &answer);
            }
            Err(CallError::NotSent(why)) => failures.push(why),
            Err(CallError::Lost(why)) => return Err(CommitError::Unknown(why)),
            Err(CallError::Refused(refusal)) => return Err(refused(&refusal)),
        }
    }
    Err(CommitError::Unavailable(failures.join("; ")))
}

/// A member that does not answer must leave time for the others.
fn share(members: &Members, deadline: Instant) -> Instant {
    deadline.min(Instant::now() + members.call_timeout() / 4)
}

fn request(keys: &Keys, transaction: &Transaction) -> TxnRequest {
    let compare = transaction.compares.iter().map(|compare| term(keys, compare)).collect();
    let look = |compare: &Compare| {
        RequestOp::Range(RangeRequest {
            key: keys.of(rules::compare_key(compare)),
            keys_only: true,
            ..RangeRequest::default()
        })
    };
    TxnRequest {
        compare,
        success: operations(keys, &transaction.writes),
        failure: transaction.compares.iter().map(look).collect(),
    }
}

fn term(keys: &Keys, compare: &Compare) -> CompareTerm {
    match compare {
        Compare::Absent(key) => {
            CompareTerm::Create { key: keys.of(key), result: "EQUAL", create_revision: 0 }
        }
        // What is not there has the mod_revision 0, and must not be equal to it: no key was ever changed at this one.
        Compare::At(key, Revision(0)) => {
            CompareTerm::Mod { key: keys.of(key), result: "EQUAL", mod_revision: i64::MAX as u64 }
        }
        Compare::At(key, revision) => {
            CompareTerm::Mod { key: keys.of(key), result: "EQUAL", mod_revision: revision.0 }
        }
    }
}

/// The writes in their order. etcd raises the revision only when a key is put, or one that exists removed: where no put
/// is among them, a hidden key is.
fn operations(keys: &Keys, writes: &[Write]) -> Vec<RequestOp> {
    let operation = |write: &Write| match write {
        Write::Put(key, value) => RequestOp::Put { key: keys.of(key), value: Bytes(value.clone()) },
        Write::Delete(key) => RequestOp::Delete { key: keys.of(key) },
    };
    let mut operations: Vec<_> = writes.iter().map(operation).collect();
    if writes.iter().any(|write| matches!(write, Write::Put(..))) {
        return operations;
    }
    operations.push(RequestOp::Put { key: Bytes(keys.hidden()), value: Bytes::default() });
    operations
}

fn outcome(transaction: &Transaction, answer: &TxnAnswer) -> Result<Revision, CommitError> {
    if answer.succeeded {
        return Ok(Revision(answer.header().revision));
    }
    let found = |response: &ResponseOp| {
        let range = response.response_range.as_ref()?;
        Some(range.kvs.first().map(|kv| Revision(kv.mod_revision)))
    };
    for (compare, response) in transaction.compares.iter().zip(&answer.responses) {
        let Some(current) = found(response) else { break };
        if !rules::holds(compare, current) {
            return Err(CommitError::Conflict { key: rules::compare_key(compare).to_owned() });
        }
    }
    Err(CommitError::Unknown("etcd says that a compare failed, and shows that all of them hold".into()))
}

fn refused(refusal: &Refusal) -> CommitError {
    let known = REFUSALS.iter().find(|(text, _)| *text == refusal.message);
    let meaning = known.map_or(CommitError::Unknown as Meaning, |(_, meaning)| *meaning);
    meaning(refusal.message.clone())
}
