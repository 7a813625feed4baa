//! Formats numbers, times and rates.

use std::time::Duration;

/// Two units at most: `24 s`, `4 min 10 s`, `2 h 5 min`, `3 d 4 h`.
#[must_use]
pub fn duration(time: Duration) -> String {
    let seconds = time.as_secs_f64().round() as u64;
    let units = [(86_400, "d"), (3_600, "h"), (60, "min"), (1, "s")];
    let Some(first) = units.iter().position(|(length, _)| seconds >= *length) else {
        return "less than a second".to_owned();
    };
    let (length, unit) = units[first];
    let mut text = format!("{} {unit}", seconds / length);
    if let Some((smaller, unit)) = units.get(first + 1) {
        let rest = seconds % length / smaller;
        if rest > 0 {
            text += &format!(" {rest} {unit}");
        }
    }
    text
}

/// With a comma between thousands.
#[must_use]
pub fn number(value: impl Into<u64>) -> String {
    let digits = value.into().to_string();
    let mut text = String::with_capacity(digits.len() * 4 / 3);
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// Two digits at least.
pub(super) fn rate(value: f64) -> String {
    if value < 9.95 {
        let text = format!("{value:.1}");
        return text.strip_suffix(".0").map(str::to_owned).unwrap_or(text);
    }
    number(value.round() as u64)
}

pub(super) fn percent(share: f64) -> String {
    let percent = 100.0 * share.clamp(0.0, 1.0);
    match percent {
        p if p > 0.0 && p < 0.5 => "less than 1 %".to_owned(),
        p => format!("{p:.0} %"),
    }
}

/// `, 11 more a minute`: in the unit of time in which it is at least one. Empty if it does not grow.
pub(super) fn growth(per_second: f64) -> String {
    let units = [("second", 1.0), ("minute", 60.0), ("hour", 3600.0)];
    let fits = |(_, seconds): &&(&str, f64)| per_second * seconds >= 1.0;
    match units.iter().find(fits) {
        Some((unit, seconds)) => {
            let article = if *unit == "hour" { "an" } else { "a" };
            format!(", {} more {article} {unit}", rate(per_second * seconds))
        }
        None => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_have_two_units() {
        for (seconds, text) in [
            (0.2, "less than a second"),
            (0.9, "1 s"),
            (24.0, "24 s"),
            (60.0, "1 min"),
            (250.0, "4 min 10 s"),
            (3_600.0, "1 h"),
            (7_530.0, "2 h 5 min"),
            (273_700.0, "3 d 4 h"),
        ] {
            assert_eq!(duration(Duration::from_secs_f64(seconds)), text);
        }
    }

    #[test]
    fn numbers_are_short() {
        assert_eq!(number(999_u64), "999");
        assert_eq!(number(1_234_567_u64), "1,234,567");
        assert_eq!(
            [0.0, 0.04, 1.25, 9.96, 1_500.4].map(rate),
            ["0", "0", "1.2", "10", "1,500"]
        );
        assert_eq!(
            [0.0, 0.001, 0.5, 7.0].map(percent),
            ["0 %", "less than 1 %", "50 %", "100 %"]
        );
        assert_eq!(
            [5.0, 0.1, 0.001, 0.000_1].map(growth),
            [
                ", 5 more a second",
                ", 6 more a minute",
                ", 3.6 more an hour",
                ""
            ]
        );
    }
}
