//! The rules, as DESIGN's table draws them.

/// What one crate must never know.
pub(super) struct Room {
    /// The crate.
    pub(super) package: &'static str,
    /// Whether its tree is looked at with all features; else with the default ones, as its users have it.
    pub(super) all_features: bool,
    /// Crates that must not be in its tree; a `*` at the end stands for anything.
    pub(super) never: &'static [&'static str],
    /// The reason, for the message.
    pub(super) why: &'static str,
}

const fn room(package: &'static str, why: &'static str, never: &'static [&'static str]) -> Room {
    Room { package, all_features: true, never, why }
}

/// One line for each crate of ours.
pub(super) const ROOMS: &[Room] = &[
    room(
        "hsm-proto",
        "the wire is neither a cluster nor a token",
        &["kube*", "k8s-openapi", "cryptoki*", "rusb"],
    ),
    room(
        "hsm-types",
        "words have no async, no clock, no environment and no I/O",
        &[
            "tokio*",
            "futures*",
            "async-*",
            "tonic*",
            "hyper*",
            "kube*",
            "k8s-openapi",
            "cryptoki*",
            "nix",
            "rusb",
            "libusb*",
            "jiff*",
            "chrono*",
            "time",
            "rand*",
            "getrandom",
            "tracing*",
        ],
    ),
    room(
        "hsm-token",
        "it knows nothing above it",
        &[
            "hsm-proto",
            "hsm-store",
            "hsm-usb",
            "hsm-device-plugin",
            "hsm-agent",
            "hsm-api",
            "hsm-core",
            "hsm-controller",
            "kubectl-hsm",
            "tonic*",
            "kube*",
            "k8s-openapi",
            "rusb",
        ],
    ),
    // Default features: its users take the port alone. The agent, which wants PKCS#11, turns it on for the program.
    Room {
        package: "hsm-store",
        all_features: false,
        never: &["cryptoki*", "tonic*", "hsm-proto", "tokio*", "kube*", "rusb"],
        why: "records live on any Token, and nobody calls them over a wire",
    },
    room(
        "hsm-usb",
        "the bus knows no tokens",
        &["cryptoki*", "hsm-token", "hsm-store", "hsm-proto", "kube*"],
    ),
    room(
        "hsm-device-plugin",
        "it sees an inventory",
        &["cryptoki*", "rusb", "libusb*", "hsm-token", "hsm-usb", "hsm-store", "kube*"],
    ),
    room(
        "hsm-agent",
        "the agent has no Kubernetes rights at all",
        &["kube*", "k8s-openapi", "hsm-api", "hsm-core", "hsm-controller"],
    ),
    room(
        "hsm-api",
        "the custom resources are data",
        &["tokio*", "hyper*", "tonic*", "kube-client", "kube-runtime"],
    ),
    room(
        "hsm-core",
        "the core decides and touches nothing: no I/O, no clock, no randomness",
        &[
            "tokio*",
            "tonic*",
            "hyper*",
            "kube-client",
            "kube-runtime",
            "aws-lc-*",
            "rand*",
            "getrandom",
            "rustls*",
            "tracing-subscriber",
            "hsm-proto",
        ],
    ),
    // nix is not in the tree of kube 5.0 either; if a dependency of kube ever brings it, the wall is ours to move.
    room(
        "hsm-controller",
        "the controller reaches tokens through agents only",
        &[
            "cryptoki*",
            "rusb",
            "libusb*",
            "nix",
            "hsm-token",
            "hsm-store",
            "hsm-usb",
            "hsm-device-plugin",
            "hsm-agent",
        ],
    ),
    room(
        "kubectl-hsm",
        "it speaks REST, and does not know the controller's inside",
        &["hsm-controller", "hsm-core", "hsm-agent", "hsm-token", "hsm-store", "cryptoki*", "rusb"],
    ),
];

/// Crates of ours without walls, and why.
pub(super) const UNRULED: &[(&str, &str)] = &[
    ("xtask", "a tool of the workshop, in no program that ships"),
    ("hsm-tests", "tests put every part together"),
    ("hsm-faulty-module", "it stands in for a token, below everything, and ships in no program"),
];

/// Libraries that exactly one crate imports.
pub(super) const OWNED: &[(&str, &str)] = &[
    ("cryptoki", "hsm-token"),
    ("cryptoki-sys", "hsm-token"),
    ("pcsc", "hsm-token"),
    ("pcsc-sys", "hsm-token"),
    ("rusb", "hsm-usb"),
    ("libusb1-sys", "hsm-usb"),
];

/// Who else may import an owned library: the faulty module is the other end of the C ABI, and is tested through it.
pub(super) const STAND_INS: &[(&str, &str)] =
    &[("cryptoki", "hsm-faulty-module"), ("cryptoki-sys", "hsm-faulty-module")];

/// Crates that are nowhere in the workspace, tests included, on any platform. deny.toml has the same list.
pub(super) const BANNED: &[(&str, &str)] = &[
    ("ring", "rustls panics at its first use when there are two providers; ours is aws-lc-rs"),
    ("chrono", "kube left it; jiff comes with k8s-openapi"),
    ("serde_yaml", "unmaintained; kube brings serde-saphyr"),
    ("openssl", "one TLS library is enough, and it is rustls"),
    ("openssl-sys", "one TLS library is enough, and it is rustls"),
    ("native-tls", "one TLS library is enough, and it is rustls"),
];

/// Crates whose source names no clock, no environment, no I/O and no randomness.
pub(super) const PURE: &[&str] = &["hsm-core", "hsm-types"];

/// What a pure crate does not say. A word is matched whole.
pub(super) const IMPURE: &[&str] = &[
    "SystemTime",
    "Instant",
    "std::env",
    "std::fs",
    "std::io",
    "std::net",
    "std::process",
    "std::thread",
    "std::os",
    "rand",
    "getrandom",
    "tokio",
    "async",
];
