//! A SmartCard-HSM in memory: the commands that we use, as the pico-hsm firmware 6.6 answers them.

use std::collections::BTreeSet;

use hsm_token::TokenError;
use hsm_token::sc_hsm::CardChannel;

const AID: [u8; 11] = [0xE8, 0x2B, 0x06, 0x01, 0x04, 0x01, 0x81, 0xC3, 0x1F, 0x02, 0x01];

#[derive(Clone)]
#[expect(clippy::struct_excessive_bools, reason = "what a card does and does not, each by itself")]
pub(crate) struct FakeCard {
    pub(crate) pin: Option<Vec<u8>>,
    pub(crate) so_pin: Option<Vec<u8>>,
    pub(crate) tries: u8,
    pub(crate) files: BTreeSet<[u8; 2]>,
    pub(crate) logged_in: bool,
    /// Files that it will not delete.
    pub(crate) stubborn: BTreeSet<[u8; 2]>,
    /// Whether it knows extended lengths.
    pub(crate) extended: bool,
    /// Whether the applet is there at all.
    pub(crate) sc_hsm: bool,
    /// The commands, without their data where that is a PIN.
    pub(crate) log: Vec<String>,
    /// Whether it hides private values from who is not logged in.
    pub(crate) shy: bool,
    /// Answers to commands of this INS instead of its own; the applet is always selected.
    pub(crate) instead: Option<(u8, u16)>,
}

impl FakeCard {
    pub(crate) fn blank() -> Self {
        Self {
            pin: None,
            so_pin: None,
            tries: 0,
            files: BTreeSet::from([[0xC4, 0], [0xCC, 0]]),
            logged_in: false,
            stubborn: BTreeSet::new(),
            extended: true,
            sc_hsm: true,
            log: Vec::new(),
            shy: false,
            instead: None,
        }
    }

    pub(crate) fn with_pin(pin: &str) -> Self {
        Self { pin: Some(pin.as_bytes().to_vec()), so_pin: Some(vec![1; 8]), tries: 3, ..Self::blank() }
    }

    /// A data object: its description and its value.
    pub(crate) fn put(&mut self, id: u8, private: bool) {
        self.files.insert([0xC9, id]);
        self.files.insert([if private { 0xCD } else { 0xCF }, id]);
    }

    pub(crate) fn sent(&self, ins: &str) -> usize {
        self.log.iter().filter(|line| line.starts_with(ins)).count()
    }

    fn answer(&mut self, header: [u8; 4], data: &[u8], extended: bool) -> (Vec<u8>, u16) {
        if let Some((ins, status)) = self.instead
            && ins == header[1]
            && header[1..3] != [0xA4, 0x04]
        {
            return (vec![], status);
        }
        match header {
            [0x00, 0xA4, 0x04, 0x00] if self.sc_hsm && data == AID => {
                self.logged_in = false;
                (vec![0x6F, 0x0B, 0x82, 0x02, 0x78, 0x00, 0x85, 0x05, 0x00, 0x01, 0xFF, 0x06, 0x06], 0x9000)
            }
            [0x00, 0xA4, 0x00, 0x00] => {
                let hidden = self.shy && !self.logged_in && data[0] == 0xCD;
                let there = !hidden && <[u8; 2]>::try_from(data).is_ok_and(|id| self.files.contains(&id));
                if there { (vec![0x6F, 0x04, 0x81, 0x02, 0x00, 0x10], 0x9000) } else { (vec![], 0x6A82) }
            }
            [0x00, 0x20, 0x00, 0x81] => (vec![], self.verify(data)),
            [0x00, 0x20, 0x00, 0x88] => (vec![], if self.so_pin.is_some() { 0x63CF } else { 0x6A88 }),
            [0x80, 0x58, 0x00, 0x00] if extended && !self.extended => (vec![], 0x6700),
            [0x80, 0x58, 0x00, 0x00] => {
                // Values are not listed. The firmware may append an empty identifier.
                let listed = self.files.iter().filter(|id| ![0xCD, 0xCF].contains(&id[0]));
                (listed.chain([&[0, 0]]).flatten().copied().collect(), 0x9000)
            }
            [0x00, 0xE4, 0x02, 0x00] if !self.logged_in => (vec![], 0x6982),
            [0x00, 0xE4, 0x02, 0x00] => {
                let id = [data[0], data[1]];
                if self.stubborn.contains(&id) {
                    return (vec![], 0x6F00);
                }
                (vec![], if self.files.remove(&id) { 0x9000 } else { 0x6A82 })
            }
            [0x80, 0x50, 0x00, 0x00] => (vec![], self.initialize(data)),
            _ => (vec![], 0x6D00),
        }
    }

    fn verify(&mut self, data: &[u8]) -> u16 {
        let Some(pin) = &self.pin else { return 0x6A88 };
        if self.tries == 0 {
            return 0x6983;
        }
        if data.is_empty() {
            return if self.logged_in { 0x9000 } else { 0x63C0 | u16::from(self.tries) };
        }
        if data == pin {
            (self.logged_in, self.tries) = (true, 3);
            return 0x9000;
        }
        self.tries -= 1;
        if self.tries == 0 { 0x6983 } else { 0x63C0 | u16::from(self.tries) }
    }

    /// Wipes, whoever asks, as the real one does.
    fn initialize(&mut self, mut data: &[u8]) -> u16 {
        *self = Self { log: std::mem::take(&mut self.log), ..Self::blank() };
        while let [tag, length, rest @ ..] = data {
            let (value, after) = rest.split_at(usize::from(*length));
            match tag {
                0x81 => self.pin = Some(value.to_vec()),
                0x82 => self.so_pin = Some(value.to_vec()),
                0x91 => self.tries = value[0],
                _ => {}
            }
            data = after;
        }
        self.logged_in = true;
        0x9000
    }
}

impl CardChannel for FakeCard {
    fn transmit(&mut self, command: &[u8]) -> Result<Vec<u8>, TokenError> {
        let (header, rest) = command.split_at(4);
        let header = [header[0], header[1], header[2], header[3]];
        let (data, extended) = match rest {
            [] | [0] => (&[][..], false),
            [0, 0, 0] => (&[][..], true),
            [length, rest @ ..] => (&rest[..usize::from(*length)], false),
        };
        let shown = if [0x20, 0x50].contains(&header[1]) { vec![] } else { data.to_vec() };
        let with = if data.is_empty() { "" } else { " with data" };
        self.log.push(format!("{:02X} {:02X}{:02X} {shown:02X?}{with}", header[1], header[2], header[3]));
        let (mut answer, status) = self.answer(header, data, extended);
        answer.extend_from_slice(&status.to_be_bytes());
        Ok(answer)
    }
}
