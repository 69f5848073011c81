//! Replies of xenstored, as they come over its socket.

use std::io::{self, Read};

/// `XENSTORE_PAYLOAD_MAX`: the most that follows a header, in both directions.
pub const MAX_PAYLOAD: usize = 4096;

/// `struct xsd_sockmsg`: type, request, transaction, length, in the machine's byte order.
pub(super) const HEADER: usize = 16;

// `enum xsd_sockmsg_type`.
pub(super) const XS_READ: u32 = 2;
pub(super) const XS_WATCH_EVENT: u32 = 15;
pub(super) const XS_ERROR: u32 = 16;

/// The daemon's answer about a path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply {
    /// Its value: any bytes, [`MAX_PAYLOAD`] at most.
    Value(Vec<u8>),
    /// The name of an error, such as `ENOENT`, without the trailing NUL.
    Error(Vec<u8>),
}

/// Why there is no reply.
#[derive(Debug, thiserror::Error)]
pub enum ReplyError {
    /// Reading or writing failed; the daemon closed the connection or does not answer.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// The daemon violated the protocol.
    #[error("{0}")]
    Protocol(String),
}

/// Reads the reply to the `READ` of this number; events of watches before it are skipped.
///
/// # Errors
/// When reading fails or ends, or the reply has another type, belongs to another request, or is too long.
pub fn read(from: &mut impl Read, request: u32) -> Result<Reply, ReplyError> {
    loop {
        let mut header = [0; HEADER];
        fill(from, &mut header)?;
        let [kind, to, transaction, length] = words(header);
        let length = usize::try_from(length).unwrap_or(usize::MAX);
        if length > MAX_PAYLOAD {
            return Err(ReplyError::Protocol(format!("{length} bytes at once")));
        }
        let mut payload = vec![0; length];
        fill(from, &mut payload)?;
        let is_answer = to == request && transaction == 0;
        match kind {
            XS_WATCH_EVENT => {}
            XS_READ if is_answer => return Ok(Reply::Value(payload)),
            XS_ERROR if is_answer => {
                payload.pop_if(|last| *last == 0);
                return Ok(Reply::Error(payload));
            }
            _ => {
                return Err(ReplyError::Protocol(format!(
                    "type {kind} to request {to} of transaction {transaction}, not to {request}"
                )));
            }
        }
    }
}

/// Like `read_exact`, with the same error at every length.
fn fill(from: &mut impl Read, mut bytes: &mut [u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        match from.read(bytes) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(count) => bytes = &mut bytes[count..],
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

pub(super) fn words(header: [u8; HEADER]) -> [u32; 4] {
    let mut words = [0; 4];
    for (word, bytes) in words.iter_mut().zip(header.as_chunks().0) {
        *word = u32::from_ne_bytes(*bytes);
    }
    words
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Headers similar to those of a reply to request 7, or of events before it.
    fn header() -> impl Strategy<Value = [u32; 4]> {
        let kind = prop_oneof![Just(XS_READ), Just(XS_WATCH_EVENT), Just(XS_ERROR), any::<u32>()];
        let request = prop_oneof![3 => Just(7), 1 => any::<u32>()];
        let length = prop_oneof![8 => 0u32..20, 1 => any::<u32>()];
        (kind, request, prop_oneof![8 => Just(0), 1 => any::<u32>()], length)
            .prop_map(|(kind, request, transaction, length)| [kind, request, transaction, length])
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_do_not_panic(
            messages in proptest::collection::vec((header(), proptest::collection::vec(any::<u8>(), 0..20)), 0..5),
        ) {
            let bytes = messages.iter().flat_map(|(header, payload)| {
                header.iter().flat_map(|word| word.to_ne_bytes()).chain(payload.iter().copied())
            });
            let bytes: Vec<u8> = bytes.collect();
            match read(&mut &bytes[..], 7) {
                Ok(Reply::Value(payload) | Reply::Error(payload)) => {
                    prop_assert!(payload.len() <= MAX_PAYLOAD && payload.len() + HEADER <= bytes.len());
                }
                Err(_) => {}
            }
        }

        #[test]
        fn a_value_is_read_after_any_events(
            value in proptest::collection::vec(any::<u8>(), 0..=MAX_PAYLOAD),
            events in 0..4_usize,
        ) {
            let message = |kind: u32, payload: &[u8]| {
                let header = [kind, 7, 0, payload.len() as u32].into_iter().flat_map(u32::to_ne_bytes);
                header.chain(payload.iter().copied()).collect::<Vec<u8>>()
            };
            let bytes = [message(XS_WATCH_EVENT, b"/a\0t\0").repeat(events), message(XS_READ, &value)].concat();
            prop_assert_eq!(read(&mut &bytes[..], 7).unwrap(), Reply::Value(value));
        }
    }
}
