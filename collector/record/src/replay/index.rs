//! The order of steps: one per round and one per window, as the loop published them.
//!
//! The step of a round has the window that ended in it, just before pinning; every other window is a step of its
//! own. The window that ended in a round has the previous round as its own, and ends after the next round began.

use huddle_model::schema::{Cell, Manifest, Table};
use huddle_recording::rows::Cells;

use super::files::TableFiles;

/// When a round was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct RoundTime {
    pub(super) round: u64,
    pub(super) begin_us: u64,
    pub(super) end_us: u64,
}

/// When a window was, and the round whose placement was in force.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct WindowTime {
    pub(super) window: u64,
    pub(super) round: u64,
    pub(super) begin_us: u64,
    pub(super) end_us: u64,
}

/// One step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Position {
    /// Its round; times are those of the window where the round itself was not recorded.
    pub(super) round: RoundTime,
    /// The window that belongs to this step.
    pub(super) window: Option<u64>,
    /// Whether it is the round itself, not a window in it.
    pub(super) is_round: bool,
    /// Events from this time on belong to this step: when its round began, or its window ended.
    pub(super) open_us: u64,
    /// When it was published, in microseconds since the Unix epoch.
    pub(super) at_us: u64,
}

/// All rounds and windows of a recording, in order.
pub(super) fn positions(
    tables: &mut [TableFiles],
    manifest: &Manifest,
    warnings: &mut Vec<String>,
) -> Vec<Position> {
    let mut rounds: Vec<RoundTime> = Vec::new();
    let mut windows: Vec<WindowTime> = Vec::new();
    // A round exists if any of these tables has it; what another lacks is unavailable.
    for table in [Table::Decisions, Table::Ksm, Table::Vms] {
        tables[table as usize].scan(&["round", "begin_us", "end_us"], warnings, |cells| {
            let [round, begin_us, end_us] = [number(cells, 0)?, time(cells, 1)?, time(cells, 2)?];
            if rounds.last().is_none_or(|last| last.round != round) {
                rounds.push(RoundTime { round, begin_us, end_us });
            }
            Ok(())
        });
    }
    if manifest.knows(Table::Windows) {
        let names = ["window", "round", "begin_us", "end_us"];
        tables[Table::Windows as usize].scan(&names, warnings, |cells| {
            windows.push(WindowTime {
                window: number(cells, 0)?,
                round: number(cells, 1)?,
                begin_us: time(cells, 2)?,
                end_us: time(cells, 3)?,
            });
            Ok(())
        });
    }
    in_order(rounds, windows)
}

fn number(cells: &Cells<'_>, position: usize) -> Result<u64, &'static str> {
    u64::of(cells.value(position)).ok_or("a number of a round or window is null")
}

fn time(cells: &Cells<'_>, position: usize) -> Result<u64, &'static str> {
    let time = i64::of(cells.value(position)).ok_or("a time is null")?;
    Ok(unsigned(time))
}

/// A time before 1970 is that of a broken clock.
pub(super) fn unsigned(time_us: i64) -> u64 {
    u64::try_from(time_us).unwrap_or(0)
}

fn in_order(mut rounds: Vec<RoundTime>, mut windows: Vec<WindowTime>) -> Vec<Position> {
    // The sort is stable, so a round in several tables is taken from the first of them.
    rounds.sort_by_key(|round| round.round);
    rounds.dedup_by_key(|round| round.round);
    windows.sort_by_key(|window| (window.round, window.window));
    windows.dedup_by_key(|window| window.window);

    let mut positions = Vec::with_capacity(rounds.len() + windows.len());
    let mut windows = windows.into_iter().peekable();
    for round in rounds {
        let mut window_of_round = None;
        while let Some(window) = windows.next_if(|window| window.round < round.round) {
            let is_last = windows.peek().is_none_or(|next| next.round != window.round);
            if is_last && window.round + 1 == round.round && window.end_us >= round.begin_us {
                window_of_round = Some(window);
            } else {
                positions.push(of_window(&positions, window));
            }
        }
        positions.push(Position {
            round,
            window: window_of_round.map(|window| window.window),
            is_round: true,
            open_us: round.begin_us,
            at_us: window_of_round.map_or(0, |window| window.end_us).max(round.end_us),
        });
    }
    for window in windows {
        positions.push(of_window(&positions, window));
    }
    positions
}

/// The step of a window alone, in the round before it, or in one that was not recorded.
fn of_window(before: &[Position], window: WindowTime) -> Position {
    let lacking = RoundTime { round: window.round, begin_us: window.begin_us, end_us: window.end_us };
    let round = before.last().map(|last| last.round).filter(|round| round.round == window.round);
    let round = round.unwrap_or(lacking);
    Position {
        round,
        window: Some(window.window),
        is_round: false,
        open_us: window.end_us,
        at_us: window.end_us.max(round.end_us),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn round(round: u64, begin_us: u64, end_us: u64) -> RoundTime {
        RoundTime { round, begin_us, end_us }
    }

    fn window(window: u64, round: u64, end_us: u64) -> WindowTime {
        WindowTime { window, round, begin_us: end_us.saturating_sub(10), end_us }
    }

    /// Round, window and time of each.
    fn order(rounds: &[RoundTime], windows: &[WindowTime]) -> Vec<(u64, Option<u64>, u64)> {
        let positions = in_order(rounds.to_vec(), windows.to_vec());
        positions.iter().map(|p| (p.round.round, p.window, p.at_us)).collect()
    }

    #[test]
    fn the_window_that_ends_in_a_round_belongs_to_its_step() {
        let rounds = [round(1, 0, 5), round(2, 30, 36), round(3, 40, 44)];
        let windows = [window(1, 1, 15), window(2, 1, 25), window(3, 1, 33), window(4, 3, 54)];
        let expected = [
            (1, None, 5),
            (1, Some(1), 15),
            (1, Some(2), 25),
            (2, Some(3), 36),
            (3, None, 44),
            (3, Some(4), 54),
        ];
        assert_eq!(order(&rounds, &windows), expected);
        // Whichever table, segment or order they come from.
        let mut mixed = [&rounds[1..], &rounds[..]].concat();
        mixed.reverse();
        assert_eq!(order(&mixed, &[&windows[2..], &windows[..2]].concat()), expected);
    }

    #[test]
    fn what_was_not_recorded_leaves_the_rest_in_its_place() {
        let rounds = [round(2, 30, 36), round(5, 80, 85)];
        let windows =
            [window(1, 1, 15), window(3, 1, 33), window(6, 3, 60), window(7, 4, 82), window(8, 5, 99)];
        let found = order(&rounds, &windows);
        assert_eq!(
            found,
            [(1, Some(1), 15), (2, Some(3), 36), (3, Some(6), 60), (5, Some(7), 85), (5, Some(8), 99)]
        );
        assert_eq!(order(&[], &[window(1, u64::MAX, 15)]), [(u64::MAX, Some(1), 15)]);
        assert!(order(&[], &[]).is_empty());
    }
}
