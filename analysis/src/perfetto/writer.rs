//! Writes a trace packet by packet.

use std::io::{self, Write};

use prost::Message as _;
use prost::encoding::{WireType, encode_key, encode_varint};

use super::messages::{
    CLOCK_BOOTTIME, CLOCK_REALTIME, COUNTER, Clock, ClockSnapshot, CounterDescriptor, DebugAnnotation,
    INCREMENTAL_STATE_CLEARED, INSTANT, ORDER_EXPLICIT, ProcessDescriptor, SLICE_BEGIN, SLICE_END,
    ThreadDescriptor, TracePacket, TrackDescriptor, TrackEvent, Value,
};

/// Field of a packet in `Trace`.
const PACKET: u32 = 1;
const SEQUENCE: u32 = 1;

/// A track of the trace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Track(u64);

/// A value of an event's arguments, by name.
pub(super) type Argument = (&'static str, Value);

/// What a track is, besides its name.
pub(super) enum Kind {
    /// Slices and instants.
    Plain,
    /// A process, by its id.
    Process(i32),
    /// A thread, by the id of its process and its own.
    Thread(i32, i32),
    /// Values over time, in a unit.
    Counter(&'static str),
}

/// A trace that is being written. Times are nanoseconds since the Unix epoch.
pub(super) struct TraceWriter<W> {
    out: W,
    buffer: Vec<u8>,
    tracks: u64,
}

impl<W: Write> TraceWriter<W> {
    /// Begins a trace whose clock is the wall clock.
    pub(super) fn new(out: W, begin_ns: u64) -> io::Result<Self> {
        let mut writer = Self { out, buffer: Vec::new(), tracks: 0 };
        let clock = |id| Clock { clock_id: Some(id), timestamp: Some(begin_ns) };
        writer.packet(&TracePacket {
            // Perfetto shows the time of day where it knows both clocks.
            clock_snapshot: Some(ClockSnapshot {
                clocks: vec![clock(CLOCK_BOOTTIME), clock(CLOCK_REALTIME)],
                primary_trace_clock: Some(CLOCK_BOOTTIME),
            }),
            timestamp: Some(begin_ns),
            trusted_packet_sequence_id: Some(SEQUENCE),
            sequence_flags: Some(INCREMENTAL_STATE_CLEARED),
            ..TracePacket::default()
        })?;
        Ok(writer)
    }

    /// Adds a track; those of one parent are shown by `rank`.
    pub(super) fn track(
        &mut self,
        name: &str,
        kind: &Kind,
        parent: Option<Track>,
        rank: i32,
        description: Option<String>,
    ) -> io::Result<Track> {
        self.tracks += 1;
        let track = Track(self.tracks);
        let text = || Some(name.to_owned());
        let mut descriptor = TrackDescriptor {
            uuid: Some(track.0),
            parent_uuid: parent.map(|Track(uuid)| uuid),
            child_ordering: Some(ORDER_EXPLICIT),
            sibling_order_rank: Some(rank),
            description,
            ..TrackDescriptor::default()
        };
        match *kind {
            Kind::Plain => descriptor.name = text(),
            Kind::Process(pid) => {
                descriptor.process = Some(ProcessDescriptor { pid: Some(pid), process_name: text() });
            }
            Kind::Thread(pid, tid) => {
                let thread = ThreadDescriptor { pid: Some(pid), tid: Some(tid), thread_name: text() };
                descriptor.thread = Some(thread);
            }
            Kind::Counter(unit) => {
                descriptor.name = text();
                descriptor.counter = Some(CounterDescriptor { unit_name: Some(unit.to_owned()) });
            }
        }
        self.packet(&TracePacket {
            trusted_packet_sequence_id: Some(SEQUENCE),
            track_descriptor: Some(descriptor),
            ..TracePacket::default()
        })?;
        Ok(track)
    }

    /// A slice. Those of a track must be nested or follow each other. Slices of one `group` have one colour; Perfetto otherwise
    /// takes it from the name without its digits.
    pub(super) fn slice(
        &mut self,
        track: Track,
        (begin_ns, end_ns): (u64, u64),
        name: &str,
        group: Option<u64>,
        arguments: Vec<Argument>,
    ) -> io::Result<()> {
        self.event(track, begin_ns, SLICE_BEGIN, Some(name), group, arguments)?;
        self.end(track, end_ns)
    }

    /// Begins a slice, within those that have begun.
    pub(super) fn begin(
        &mut self,
        track: Track,
        at_ns: u64,
        name: &str,
        arguments: Vec<Argument>,
    ) -> io::Result<()> {
        self.event(track, at_ns, SLICE_BEGIN, Some(name), None, arguments)
    }

    /// Ends the slice that began last.
    pub(super) fn end(&mut self, track: Track, at_ns: u64) -> io::Result<()> {
        self.event(track, at_ns, SLICE_END, None, None, Vec::new())
    }

    /// Something without a duration.
    pub(super) fn instant(
        &mut self,
        track: Track,
        at_ns: u64,
        name: &str,
        arguments: Vec<Argument>,
    ) -> io::Result<()> {
        self.event(track, at_ns, INSTANT, Some(name), None, arguments)
    }

    /// The value of a counter from this time on.
    pub(super) fn value(&mut self, track: Track, at_ns: u64, value: f64) -> io::Result<()> {
        self.packet(&TracePacket {
            timestamp: Some(at_ns),
            trusted_packet_sequence_id: Some(SEQUENCE),
            track_event: Some(TrackEvent {
                r#type: Some(COUNTER),
                track_uuid: Some(track.0),
                double_counter_value: Some(value),
                ..TrackEvent::default()
            }),
            ..TracePacket::default()
        })
    }

    /// Writes what is buffered.
    pub(super) fn finish(mut self) -> io::Result<()> {
        self.out.flush()
    }

    fn event(
        &mut self,
        track: Track,
        at_ns: u64,
        kind: i32,
        name: Option<&str>,
        group: Option<u64>,
        arguments: Vec<Argument>,
    ) -> io::Result<()> {
        let annotation =
            |(name, value): Argument| DebugAnnotation { name: Some(name.to_owned()), value: Some(value) };
        self.packet(&TracePacket {
            timestamp: Some(at_ns),
            trusted_packet_sequence_id: Some(SEQUENCE),
            track_event: Some(TrackEvent {
                r#type: Some(kind),
                track_uuid: Some(track.0),
                name: name.map(str::to_owned),
                correlation_id: group,
                debug_annotations: arguments.into_iter().map(annotation).collect(),
                ..TrackEvent::default()
            }),
            ..TracePacket::default()
        })
    }

    fn packet(&mut self, packet: &TracePacket) -> io::Result<()> {
        self.buffer.clear();
        encode_key(PACKET, WireType::LengthDelimited, &mut self.buffer);
        encode_varint(packet.encoded_len() as u64, &mut self.buffer);
        packet.encode_raw(&mut self.buffer);
        self.out.write_all(&self.buffer)
    }
}
