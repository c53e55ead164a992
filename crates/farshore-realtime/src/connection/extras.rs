//! What the newest clients can do besides: streams, states of groups, invocations.

use std::sync::Arc;

use super::client::{Client, acknowledge};
use super::invoke::{self, Invoker};
use crate::frames::{ErrorDetail, StreamStart, Upstream};
use crate::hub::streams::StreamAnswer;
use crate::hub::{Asked, Done, acknowledgement};
use crate::live::now;
use crate::names::GroupName;

impl Client {
    pub(super) fn extra(&mut self, frame: Upstream) {
        match frame {
            Upstream::Send { group, ack_id, no_echo, data: None, stream: Some(start), .. } => {
                self.begin_stream(ack_id, group, no_echo, start);
            }
            Upstream::StreamData { stream_id, sequence, data } => {
                let done = self
                    .hub
                    .change(|hub| hub.stream_data(&self.connection, &stream_id, sequence, data, now()));
                self.say(&stream_id, &done);
            }
            Upstream::StreamEnd { stream_id, error } => {
                let done = self.hub.change(|hub| hub.stream_end(&self.connection, &stream_id, error, now()));
                self.say(&stream_id, &done);
            }
            Upstream::SetGroupState { group, state, ack_id } => {
                let done = self.hub.change(|hub| {
                    hub.set_group_state(&self.connection, ack_id, &group, state.clone(), now())
                });
                self.acknowledge(ack_id, &done);
            }
            Upstream::SubscribeGroupState { group, ack_id } => self.watch(ack_id, group),
            Upstream::UnsubscribeGroupState { group, ack_id } => {
                let done = self.hub.change(|hub| hub.unwatch_group_state(&self.connection, ack_id, &group));
                self.acknowledge(ack_id, &done);
            }
            Upstream::Invoke { invocation_id, target, event, data } => {
                let invoker = self.invoker();
                match invoke::wanted(invocation_id, target.as_deref(), event, data) {
                    Ok(invocation) => {
                        self.invocations.get_or_insert_default().start(invoker, invocation);
                    }
                    Err((id, error)) => invoker.answer(&id, Err(&error)),
                }
            }
            Upstream::CancelInvocation { invocation_id } => {
                if let Some(invocations) = &self.invocations {
                    invocations.cancel(&invocation_id);
                }
            }
            // Clients are not invoked here, so there is nothing that this could answer.
            Upstream::InvokeResponse { .. } => {}
            other => {
                let message = "a frame that begins a stream has no data: send it as its first piece";
                self.refuse(other.ack_id(), "BadRequest", message.to_owned());
            }
        }
    }

    fn begin_stream(&mut self, ack_id: Option<u64>, group: GroupName, no_echo: bool, start: StreamStart) {
        let stream_id = start.stream_id.clone();
        let done = self.hub.change(|hub| hub.stream_start(&self.connection, group, no_echo, start, now()));
        self.say(&stream_id, &done);
        // Whoever begins a stream is answered by the stream's own frames; one that asks for more is told both.
        if let Some(ack_id) = ack_id {
            let error: Option<&ErrorDetail> = match &done.value {
                StreamAnswer::Nack { error, .. } => Some(error),
                StreamAnswer::Closed { error } => error.as_ref(),
                StreamAnswer::Nothing | StreamAnswer::Ack { .. } => None,
            };
            self.hub.promise(done.position, &self.outbox, acknowledge(self.protocol, ack_id, error));
        }
    }

    fn say(&self, stream_id: &str, done: &Done<StreamAnswer>) {
        if let Some(frame) = done.value.frame(self.protocol, stream_id) {
            self.hub.promise(done.position, &self.outbox, frame);
        }
    }

    fn acknowledge(&self, ack_id: Option<u64>, done: &Done<Asked>) {
        if let Some(ack_id) = ack_id {
            let error = acknowledgement(&done.value, ack_id);
            let frame = acknowledge(self.protocol, ack_id, error.as_ref());
            self.hub.promise(done.position, &self.outbox, frame);
        }
    }

    /// First the acknowledgement, when it is safe, then what the group shows, then each change.
    fn watch(&self, ack_id: Option<u64>, group: GroupName) {
        let done = self.hub.change(|hub| hub.watch_group_state(&self.connection, ack_id, &group));
        if done.value != Asked::Done {
            return self.acknowledge(ack_id, &done);
        }
        let (hub, outbox, connection) =
            (Arc::clone(&self.hub), Arc::clone(&self.outbox), self.connection.clone());
        let frame = ack_id.map(|ack_id| acknowledge(self.protocol, ack_id, None));
        tokio::spawn(async move {
            hub.settled(done.position).await;
            if let Some(frame) = frame {
                outbox.frame(frame);
            }
            hub.with(|hub| hub.begin_watching(&connection, &group));
        });
    }

    fn invoker(&self) -> Invoker {
        Invoker {
            hub: Arc::clone(&self.hub),
            connection: self.connection.clone(),
            user: self.user.clone(),
            protocol: self.protocol,
            outbox: Arc::clone(&self.outbox),
        }
    }
}
