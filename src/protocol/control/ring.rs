//! Ring changes: placement versions in motion. The approach is that of Garage's layout manager.
//!
//! A *version* says who owns what; a *change* makes its successor. While a change is under way more than
//! one version is *live*: writes go to the homes of every live version, reads to those of one. Each
//! member says how far it has come by three *trackers*, and from the trackers of all follows, on each
//! node by itself, what is read and what has retired. Nobody leads: whoever makes a successor only proposes.
//!
//! ```text
//!  steward, operator          every member                                    every node
//!  ─────────────────          ────────────                                    ──────────
//!  entries for who joins ─▶   (a majority agrees: see admission)
//!  version n+1, fsync ─────▶  holds it, fsync ─▶ workers write to n and n+1
//!                             ack(n+1), fsync ──────────────────────────────▶ all acked: transfer begins
//!                             all that it held is merged: sync(n+1), fsync ─▶ all synced: reads ask n+1
//!                             reads of n have ended: sync_ack(n+1), fsync ──▶ all passed: n retires
//! ```
//!
//! *States*, on one node. `live = [o, …, n]` is one chain of versions, each the parent of the next; at
//! most [`LIVE_MAX`](crate::protocol::placement::LIVE_MAX). A tracker t *reaches* version v of the chain if t, or t's nearest ancestor on the
//! chain (a rival that lost counts as its parent), is v or later. M(v) are v's members, id(m) is m's
//! disk; a name that was removed has *passed* everything.
//!
//! ```text
//!  all_acked = max { v ∈ live : ∀ u ∈ live, m ∈ M(u): passed(m) ∨ ack(m, id(m)) reaches v }
//!  reads     = max { v ∈ live : ∀ u ∈ live, m ∈ M(u): passed(m) ∨ sync(m, id(m)) reaches v }
//!  o retires ⇐ p follows o in live ∧ ∀ m ∈ M(o) ∪ M(p): passed(m) ∨ sync_ack(m, id(m)) reaches p
//! ```
//!
//! The oldest live version is always acked, synced and read: its predecessor retired. Of this node's own,
//! `reads ≥ sync_ack(me)`: what it has read from once it reads from after a restart, too.
//!
//! *Rivals* are versions with one parent, made by two nodes that did not hear of each other. One stays:
//! that which somebody has sync-acked; else one that somebody has synced; else the greater hash. A member
//! of the parent that knows one rival never makes another, and nobody syncs before all of them
//! have acked: so the hash decides only while every member still holds and reads the parent. (That a sync
//! beats a hash goes beyond what is safe for reads: it keeps a node that has synced from turning back
//! while another, which has not heard of that, begins to read.) The loser's plan is made anew.
//!
//! *Disks* are no part of a version. The log of [`super::admission`] says which disk a name is, and
//! who is a voter: a name enters it before a version names it, and leaves it when it was removed, or when
//! the last version that names it has retired. Not having heard of a name's disk is no proof that it is
//! gone: only an entry that removes it makes it count as passed.
//!
//! *What is durable when.* A version is fsynced before workers hear of it, and so before it is named in
//! any message; trackers before they are told; the oldest live version before workers stop writing to
//! its parent. Trackers carry a count of their changes and the id of the disk: of two the later counts,
//! and those of a disk that was replaced count no more. A crash between any two of these forgets nothing
//! that was told. What others said is not kept: it is heard again, and until then less is known to be
//! acked or synced than is.

mod chain;
mod progress;
mod trackers;

use self::chain::Evidence;
pub(super) use self::chain::{Chain, NotTaken, Taken};
pub(super) use self::progress::{Disks, Mistakes, Ring, Stage};
use self::trackers::Heard;
