//! Values with units on the command line.

use std::time::Duration;

/// Parses `500ms`, `5s`, `2m`, `24h`; more than zero, at most a day.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    let bad = || format!("{text:?} is not a duration; write it like 500ms, 5s, 2m or 24h");
    let split = text.find(|c: char| !c.is_ascii_digit()).ok_or_else(bad)?;
    let (number, unit) = text.split_at(split);
    let number: u64 = number.parse().map_err(|_| bad())?;
    let number = number.min(u64::from(u32::MAX));
    let duration = match unit {
        "ms" => Duration::from_millis(number),
        "s" => Duration::from_secs(number),
        "m" => Duration::from_mins(number),
        "h" => Duration::from_hours(number),
        _ => return Err(bad()),
    };
    if duration.is_zero() || duration > Duration::from_hours(24) {
        return Err(format!("{text:?} must be more than zero and at most a day"));
    }
    Ok(duration)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_have_units() {
        assert_eq!(parse_duration("500ms"), Ok(Duration::from_millis(500)));
        assert_eq!(parse_duration("2m"), Ok(Duration::from_mins(2)));
        assert_eq!(parse_duration("24h"), Ok(Duration::from_hours(24)));
        for bad in [
            "25h",
            "9999999999999999999h",
            "99999999999999999h",
            "",
            "5",
            "s",
            "0s",
            "5 s",
            "1.5s",
            "9999999999m",
            "-1s",
        ] {
            assert!(parse_duration(bad).is_err(), "{bad}");
        }
    }
}
