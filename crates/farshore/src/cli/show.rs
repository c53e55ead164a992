//! What people see: tables, bytes, times, colours.

use std::io::{IsTerminal, Write};
use std::time::{SystemTime, UNIX_EPOCH};

use farshore_core::moment::Moment;
use serde::Serialize;

use super::exit::Failure;
use super::{Global, Output};
use crate::api::views::{HealthState, LossView, RpoView};

/// Longest cell before it is cut; the other formats have the whole text.
const CELL_LEN_MAX: usize = 44;
/// Tables stay within this; the last column takes what the others leave.
const TABLE_WIDTH: usize = 110;
/// The last column has at least so much.
const LAST_LEN_MIN: usize = 24;

/// Prints a view as it is, or by `table` for people.
pub(super) fn print<T: Serialize>(
    global: &Global,
    view: &T,
    table: impl FnOnce(&T) -> String,
) -> Result<(), Failure> {
    let unprintable = |error: String| Failure::failed(format!("cannot print the answer: {error}"));
    let text = match global.output {
        Output::Table => table(view),
        Output::Json => serde_json::to_string_pretty(view).map_err(|error| unprintable(error.to_string()))?,
        Output::Yaml => serde_norway::to_string(view).map_err(|error| unprintable(error.to_string()))?,
    };
    say(&text);
    Ok(())
}

/// Text on stdout. A reader that has gone is no failure.
pub(super) fn say(text: &str) {
    let _ = writeln!(std::io::stdout().lock(), "{}", text.trim_end());
}

/// Columns, as wide as their widest cell, two spaces apart.
pub(super) fn table(head: &[&str], rows: &[Vec<String>]) -> String {
    let mut widths: Vec<usize> = head.iter().map(|cell| cell.len()).collect();
    let last = head.len().saturating_sub(1);
    let mut rows: Vec<Vec<String>> = rows.to_vec();
    for row in &mut rows {
        for cell in row.iter_mut().take(last) {
            *cell = cut(cell, CELL_LEN_MAX);
        }
    }
    let others = widths.iter_mut().take(last).enumerate().map(|(column, width)| {
        *width = rows.iter().map(|row| visible_len(&row[column])).max().unwrap_or(0).max(*width);
        *width + 2
    });
    let left = TABLE_WIDTH.saturating_sub(others.sum()).max(LAST_LEN_MIN);
    for row in &mut rows {
        if let Some(cell) = row.get_mut(last) {
            *cell = cut(cell, left);
        }
    }
    for row in &rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(visible_len(cell));
        }
    }
    let head: Vec<String> = head.iter().map(|cell| bold(cell)).collect();
    let mut out = String::new();
    for row in std::iter::once(&head).chain(&rows) {
        let cells = row.iter().zip(&widths);
        let padded = cells.map(|(cell, width)| {
            let pad = width.saturating_sub(visible_len(cell));
            format!("{cell}{}", " ".repeat(pad))
        });
        out.push_str(padded.collect::<Vec<_>>().join("  ").trim_end());
        out.push('\n');
    }
    out
}

/// `name  value` lines.
pub(super) fn sheet(rows: &[(&str, String)]) -> String {
    let width = rows.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
    let lines = rows.iter().filter(|(_, value)| !value.is_empty());
    lines.map(|(name, value)| format!("{name:width$}  {value}\n")).collect()
}

fn cut(cell: &str, len_max: usize) -> String {
    if visible_len(cell) <= len_max || cell.contains('\x1b') {
        return cell.to_owned();
    }
    let kept: String = cell.chars().take(len_max - 3).collect();
    format!("{kept}...")
}

/// Characters that take room: colours do not.
pub(super) fn visible_len(text: &str) -> usize {
    let mut in_colour = false;
    let visible = text.chars().filter(|char| {
        let begins = *char == '\x1b';
        let counts = !in_colour && !begins;
        in_colour = begins || (in_colour && *char != 'm');
        counts
    });
    visible.count()
}

fn colours() -> bool {
    std::io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}

fn coloured(text: &str, code: &str) -> String {
    if colours() { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
}

fn bold(text: &str) -> String {
    coloured(text, "1")
}

/// The word for a state, in its colour.
pub(super) fn health(state: HealthState) -> String {
    let code = match state {
        HealthState::Healthy => "32",
        HealthState::Unknown => "36",
        HealthState::Warning => "33",
        HealthState::Unhealthy => "31",
    };
    coloured(state.as_str(), code)
}

/// What others said, on a terminal: nothing in it moves the cursor or changes colours.
pub(super) fn printable(text: &str) -> String {
    text.chars()
        .flat_map(|char| match char.is_control() {
            true => char.escape_default().collect::<Vec<_>>(),
            false => vec![char],
        })
        .collect()
}

/// `512 B`, `1.5 MiB`, `20 GiB`.
pub(super) fn bytes(count: u64) -> String {
    const UNITS: [&str; 6] = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    if count < 1024 {
        return format!("{count} B");
    }
    #[expect(clippy::cast_precision_loss, reason = "three digits are shown")]
    let mut value = count as f64 / 1024.0;
    let mut unit = UNITS[0];
    for next in &UNITS[1..] {
        // What would be rounded to 1024 is one of the next unit.
        if value < 1023.95 {
            break;
        }
        value /= 1024.0;
        unit = next;
    }
    let text = format!("{value:.1}");
    format!("{} {unit}", text.strip_suffix(".0").unwrap_or(&text))
}

/// `3.2 s`, `4 min 10 s`, `2 h 5 min`, `3 d 4 h`.
pub(super) fn seconds(seconds: f64) -> String {
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "durations of people")]
    let whole = seconds.max(0.0).round() as u64;
    match whole {
        _ if seconds < 10.0 => format!("{seconds:.1} s"),
        0..60 => format!("{whole} s"),
        60..3600 => format!("{} min {} s", whole / 60, whole % 60),
        3600..86400 => format!("{} h {} min", whole / 3600, whole / 60 % 60),
        _ => format!("{} d {} h", whole / 86400, whole / 3600 % 24),
    }
}

/// `2026-11-21 05:00:00Z`.
pub(super) fn time(text: &str) -> String {
    match text.split_once('T') {
        Some((day, time)) => format!("{day} {}Z", time.get(..8).unwrap_or(time)),
        None => text.to_owned(),
    }
}

/// `12 s ago`.
pub(super) fn ago(text: &str) -> String {
    let Ok(moment) = text.parse::<Moment>() else { return text.to_owned() };
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let now = Moment(u64::try_from(since.as_micros()).unwrap_or(u64::MAX));
    format!("{} ago", seconds(now.since(moment).as_secs_f64()))
}

/// `12 writes, 48 KiB, 1.5 s`, or `nothing`.
pub(super) fn loss(loss: &LossView) -> String {
    if loss.writes == 0 && loss.bytes == 0 {
        return "nothing".to_owned();
    }
    let writes = if loss.writes == 1 { "1 write".to_owned() } else { format!("{} writes", loss.writes) };
    format!("{writes}, {}, {}", bytes(loss.bytes), seconds(loss.seconds))
}

/// What a failover lost, as far as it is known now: in numbers, or between which bounds. `from` is the region that was given up.
pub(super) fn lost(rpo: &RpoView, from: &str) -> String {
    match (&rpo.final_, rpo.exact) {
        (Some(counted), true) => loss(counted),
        (Some(counted), false) if *counted != rpo.at_failover => format!("at most {}", loss(counted)),
        (last, _) => {
            let bound = &rpo.at_failover;
            let exact = if last.is_some() { "it could not be counted" } else { "exact when it is back" };
            let writes =
                if bound.writes == 1 { "1 write".to_owned() } else { format!("{} writes", bound.writes) };
            format!(
                "at least {writes} ({}), at most what {from} wrote in {} ({exact})",
                bytes(bound.bytes),
                seconds(bound.seconds)
            )
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_read_at_a_glance() {
        let check = |count, expected: &str| assert_eq!(bytes(count), expected);
        check(0, "0 B");
        check(1023, "1023 B");
        check(1024, "1 KiB");
        check(1536, "1.5 KiB");
        check((1 << 20) - 1, "1 MiB");
        check(1 << 30, "1 GiB");
        check(20 << 30, "20 GiB");
        check(u64::MAX, "16 EiB");
    }

    #[test]
    fn durations_are_read_at_a_glance() {
        let check = |given, expected: &str| assert_eq!(seconds(given), expected);
        check(0.0, "0.0 s");
        check(3.24, "3.2 s");
        check(59.0, "59 s");
        check(250.0, "4 min 10 s");
        check(7500.0, "2 h 5 min");
        check(273_600.0, "3 d 4 h");
    }

    #[test]
    fn a_loss_that_is_not_counted_yet_is_told_with_both_bounds() {
        let told = |writes, bytes, seconds| LossView { writes, bytes, seconds };
        let check = |at_failover, final_, exact, expected: &str| {
            assert_eq!(lost(&RpoView { at_failover, final_, exact }, "paris"), expected);
        };
        let (silent, some) = (told(0, 0, 600.0), told(1, 4096, 2.0));
        let upto = "at least 0 writes (0 B), at most what paris wrote in 10 min 0 s";
        check(silent, None, false, &format!("{upto} (exact when it is back)"));
        check(silent, Some(silent), false, &format!("{upto} (it could not be counted)"));
        check(
            some,
            None,
            false,
            "at least 1 write (4 KiB), at most what paris wrote in 2.0 s (exact when it is back)",
        );
        check(silent, Some(told(12, 49_152, 1.5)), true, "12 writes, 48 KiB, 1.5 s");
        check(silent, Some(told(12, 49_152, 1.5)), false, "at most 12 writes, 48 KiB, 1.5 s");
        check(silent, Some(told(0, 0, 0.0)), true, "nothing");
    }

    #[test]
    fn tables_line_up_and_long_cells_are_cut() {
        let rows = [vec!["a".into(), "x".repeat(200)], vec!["longer".into(), "y".into()]];
        let text = table(&["NAME", "WHY"], &rows);
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines[0], "NAME    WHY");
        assert_eq!(lines[2], "longer  y");
        assert_eq!(lines[1].len(), TABLE_WIDTH);
        assert!(lines[1].ends_with("..."));
        assert_eq!(visible_len("\x1b[31mred\x1b[0m"), 3);
    }
}
