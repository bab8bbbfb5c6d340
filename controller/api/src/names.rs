//! Names that people and other programs see: the group, labels, annotations, condition types.

/// The API group.
pub const GROUP: &str = "hsm.j5t.io";

/// The namespace where the operator and its HSMDevices live unless told otherwise.
pub const NAMESPACE: &str = "hsm-secrets-operator-system";

/// The value of both managed-by labels, the field manager, and the reporter of Events.
pub const MANAGER: &str = "hsm-secrets-operator";

/// The recommended label (Kubernetes, "Recommended Labels").
pub const LABEL_MANAGED_BY: &str = "app.kubernetes.io/managed-by";
/// The short label by which people list our Secrets; what our watch of Secrets selects.
pub const LABEL_MANAGED: &str = "managed-by";
/// The name of the HSMSecret that a Secret belongs to.
pub const LABEL_SECRET: &str = "hsm.j5t.io/secret";

/// On a Secret: what it last had in common with the token. Ours; nobody needs to read or write it.
pub const ANNOTATION_BASE: &str = "hsm.j5t.io/base";
/// On an HSMSecret: any new value syncs once, even with `autoSync: false`.
pub const ANNOTATION_FORCE_SYNC: &str = "hsm.j5t.io/force-sync";
/// On an HSMSecret: `"true"` stops everything.
pub const ANNOTATION_PAUSED: &str = "hsm.j5t.io/paused";
/// On an HSMSecret: `token` or `secret` resolves a conflict.
pub const ANNOTATION_RESOLVE: &str = "hsm.j5t.io/resolve";
/// On an Event: the request id that is in every log line of the reconcile.
pub const ANNOTATION_REQUEST_ID: &str = "hsm.j5t.io/request-id";

/// On an HSMSecret whose `deletionPolicy` is `Delete`.
pub const FINALIZER: &str = "hsm.j5t.io/finalizer";

/// The Secret, in the controller's namespace, that holds the key of all digests in the cluster.
pub const DIGEST_KEY_SECRET: &str = "hsm-secrets-operator-digest-key";

/// The summary: the Secret may be used and is current.
pub const READY: &str = "Ready";
/// Token and Secret are equal.
pub const SYNCED: &str = "Synced";
/// Every mirror that was asked for has the newest version.
pub const MIRRORED: &str = "Mirrored";
/// Abnormal when `True`: both sides were changed differently.
pub const CONFLICT: &str = "Conflict";
/// Abnormal when `True`: it works, with less than was asked for.
pub const DEGRADED: &str = "Degraded";
