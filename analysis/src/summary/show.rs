//! The summary as text.

use std::fmt;

use huddle_model::text::utc_text;

use super::RunSummary;
use crate::text::{
    FLAG_HEADINGS, clean, duration, figure, flag_cells, lines, or_dash, percent, table, write_losses,
};

impl fmt::Display for RunSummary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.head(f)?;
        self.vms(f)?;
        self.pairs(f)?;
        self.placed(f)?;
        self.counted(f)?;
        self.written(f)
    }
}

impl RunSummary {
    fn head(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "run       {} on {}, {}", clean(&self.run), clean(&self.host), self.path.display())?;
        let end = match (self.end_us, self.rounds.last_end_us) {
            (Some(end), _) => format!("to {}, {}", utc_text(end), duration(end - self.begin_us)),
            (None, Some(last)) => format!(
                "no end recorded (it still runs, or was killed); last round ended {} later",
                duration(last - self.begin_us)
            ),
            (None, None) => "no end recorded (it still runs, or was killed)".to_owned(),
        };
        writeln!(f, "time      {} {end}", utc_text(self.begin_us))?;
        if let Some(reason) = &self.stopped {
            writeln!(f, "stopped   recording stopped before the run: {}", clean(reason))?;
        }
        write_losses(f, &self.losses)?;
        let rounds = &self.rounds;
        let changed = match (rounds.changed, rounds.threads_changed) {
            (Some(changed), Some(threads)) => {
                format!("placement changed in {changed}, {threads} threads in all")
            }
            _ => "nothing was pinned in any".to_owned(),
        };
        writeln!(
            f,
            "rounds    {}; {changed}; huddle's own CPU time {}",
            rounds.count,
            rounds.own_cpu_us.map_or_else(
                || "not available".to_owned(),
                |us| duration(i64::try_from(us).unwrap_or(i64::MAX))
            ),
        )?;
        for (count, what, why) in [
            (rounds.without_sharing, "no sharing was measured", &rounds.sharing_unavailable),
            (rounds.without_pinning, "nothing was pinned", &rounds.pin_unavailable),
        ] {
            if count > 0 {
                writeln!(
                    f,
                    "          in {count} of them {what}; last because: {}",
                    clean(&or_dash(why.as_ref()))
                )?;
            }
        }
        if !self.events.is_empty() {
            let kinds: Vec<String> =
                self.events.iter().map(|(kind, count)| format!("{} {count}", clean(kind))).collect();
            writeln!(f, "events    {}", kinds.join(", "))?;
        }
        Ok(())
    }

    fn vms(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.vms.is_empty() {
            return writeln!(f, "\nNo VM was recorded.");
        }
        let mut rows = table(&["VM", ">pid", "VMM", ">vCPUs", ">rounds", ">frames used"]);
        for vm in &self.vms {
            rows.add_row([
                clean(&vm.vm),
                vm.holder(),
                clean(&vm.vmm),
                vm.vcpus.to_string(),
                vm.rounds.to_string(),
                or_dash(vm.frames_used),
            ]);
        }
        writeln!(f, "\nVMs\n{}", lines(&rows))
    }

    fn pairs(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.pairs == 0 {
            return writeln!(f, "\nNo sharing rate was recorded.");
        }
        let mut rows = table(&["VM", "shares with", ">mean rate", ">last rate", ">last frames", ">rounds"]);
        for pair in &self.top_pairs {
            rows.add_row([
                clean(&pair.vm),
                clean(&pair.other),
                percent(pair.mean_rate),
                percent(pair.last_rate),
                or_dash(pair.last_shared_frames),
                pair.rounds.to_string(),
            ]);
        }
        let shown = self.top_pairs.len();
        writeln!(
            f,
            "\nSharing, the {shown} highest of {} ordered pairs by mean rate\n{}",
            self.pairs,
            lines(&rows)
        )
    }

    fn placed(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.placements.is_empty() {
            return writeln!(f, "\nNo vCPU was recorded.");
        }
        let mut rows = table(&["VM", ">vCPU", ">domain", "CPUs", "in place"]);
        for placed in &self.placements {
            let applied = match (placed.applied, &placed.not_applied_reason) {
                (Some(true), _) => "yes".to_owned(),
                (applied, reason) => {
                    let word = if applied == Some(false) { "no" } else { "-" };
                    format!("{word}: {}", clean(&or_dash(reason.as_ref())))
                }
            };
            rows.add_row([
                clean(&placed.vm),
                placed.vcpu.to_string(),
                or_dash(placed.domain),
                or_dash(placed.cpus.as_ref()),
                applied,
            ]);
        }
        writeln!(f, "\nPlacement in the last round\n{}", lines(&rows))
    }

    fn counted(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.counted.is_empty() {
            return Ok(());
        }
        let mut headings = vec!["VM", ">windows", ">MPKI", ">miss ratio", ">IPC"];
        headings.extend(FLAG_HEADINGS);
        let mut rows = table(&headings);
        let shown = |value: Option<f64>| value.map_or_else(|| "-".to_owned(), figure);
        for vm in &self.counted {
            let windows = format!("{} to {}", vm.windows.0, vm.windows.1);
            let mut row = vec![clean(&vm.vm), windows, shown(vm.mpki), shown(vm.miss_ratio), shown(vm.ipc)];
            row.extend(flag_cells(&vm.samples));
            rows.add_row(row);
        }
        writeln!(f, "\nCounters\n{}", lines(&rows))
    }

    fn written(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut rows = table(&["table", ">segments", ">rows", ">bytes", ">rows lost", ">rows removed"]);
        for (name, counts) in &self.tables {
            rows.add_row([
                name.to_string(),
                counts.segments_written.to_string(),
                counts.rows_written.to_string(),
                counts.bytes_written.to_string(),
                counts.rows_lost.to_string(),
                counts.rows_removed.to_string(),
            ]);
        }
        let lost: u64 = self.tables.values().map(|counts| counts.rows_lost).sum();
        writeln!(f, "\nRecorded; {lost} rows lost\n{}", lines(&rows))
    }
}
