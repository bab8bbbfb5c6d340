//! The two lines of an opensc.conf that this module obeys: `ignored_readers` and `connect_exclusive`.

/// What OPENSC_CONF says.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct OpenScConf {
    /// A reader whose name contains one of these is not looked at.
    pub(crate) ignored: Vec<String>,
    /// Whether cards are connected exclusively.
    pub(crate) exclusive: bool,
}

impl OpenScConf {
    pub(crate) fn parse(text: &str) -> Self {
        let text: String = text.lines().map(without_comment).collect::<Vec<_>>().join("\n");
        let mut conf = Self::default();
        for (key, value) in assignments(&text) {
            match key {
                "ignored_readers" => conf.ignored.extend(strings(value)),
                "connect_exclusive" => conf.exclusive = value.trim() == "true",
                _ => {}
            }
        }
        conf
    }

    pub(crate) fn ignores(&self, reader: &str) -> bool {
        self.ignored.iter().any(|part| reader.contains(part.as_str()))
    }
}

/// A `#` begins a comment, outside quotes.
fn without_comment(line: &str) -> &str {
    let mut quoted = false;
    for (at, c) in line.char_indices() {
        match c {
            '"' => quoted = !quoted,
            '#' if !quoted => return &line[..at],
            _ => {}
        }
    }
    line
}

/// `key = value;`, at whatever depth of blocks. A brace or a semicolon inside quotes belongs to the string.
fn assignments(text: &str) -> Vec<(&str, &str)> {
    let mut found = Vec::new();
    let (mut start, mut quoted) = (0, false);
    for (at, c) in text.char_indices() {
        match c {
            '"' => quoted = !quoted,
            '{' | '}' | ';' if !quoted => {
                if c == ';'
                    && let Some((key, value)) = text[start..at].split_once('=')
                {
                    found.push((key.trim(), value.trim()));
                }
                start = at + 1;
            }
            _ => {}
        }
    }
    found
}

/// The strings of `"a", "b"` or `a, b`.
fn strings(value: &str) -> Vec<String> {
    let mut found = Vec::new();
    let (mut quoted, mut current) = (false, String::new());
    for c in value.chars() {
        match c {
            '"' => quoted = !quoted,
            ',' if !quoted => found.push(std::mem::take(&mut current)),
            c if quoted || !c.is_whitespace() => current.push(c),
            _ => {}
        }
    }
    found.push(current);
    found.retain(|s| !s.is_empty());
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_agent_writes_is_understood() {
        let conf = OpenScConf::parse(
            "# connect_exclusive = false;\napp default {\n  ignored_readers = \"Pico [a; b] 01\", \"B\"; # not C\n  \
             reader_driver pcsc {\n    connect_exclusive = true;\n    enable_pinpad = false;\n  }\n}\n",
        );
        assert_eq!(conf, OpenScConf { ignored: vec!["Pico [a; b] 01".into(), "B".into()], exclusive: true });
        assert!(conf.ignores("A Pico [a; b] 01 00") && conf.ignores("xBx") && !conf.ignores("C"));
        assert_eq!(OpenScConf::parse("app default { }"), OpenScConf::default());
    }
}
