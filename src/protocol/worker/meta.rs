//! Reading what is kept of each partition in `Space::Meta`, page by page: at the start, mostly.

use bytes::Bytes;

use super::{Reading, Worker};
use crate::protocol::meta::partition_of;
use crate::protocol::step::{Effect, Page, Space};
use crate::types::Partition;

/// Bytes that are read at a time.
const PAGE_BYTES: usize = 256 << 10;

impl Worker {
    /// Reads a page of the keys under a prefix.
    pub(super) fn scan_meta(
        &mut self,
        prefix: &'static [u8],
        after: Bytes,
        reading: Reading,
        out: &mut Vec<Effect>,
    ) {
        let token = self.next_token();
        self.reads.insert(token, reading);
        let (space, prefix) = (Space::Meta, Bytes::from_static(prefix));
        out.push(Effect::Scan { token, space, prefix, after, bytes_max: PAGE_BYTES });
    }

    /// This worker's partitions in a page of the keys under a prefix, each with what is kept of it.
    pub(super) fn marks_in(&self, prefix: &[u8], page: &Page) -> Vec<(Partition, Bytes)> {
        let of = |(key, value): &(Bytes, Bytes)| Some((partition_of(prefix, key)?, value.clone()));
        let all = page.entries.iter().filter_map(of);
        all.filter(|(p, _)| p.worker(self.config.workers) == self.config.index).collect()
    }

    /// Whether a page was the last one under a prefix; if not, the next is read.
    pub(super) fn is_last_page(
        &mut self,
        prefix: &'static [u8],
        page: &Page,
        reading: Reading,
        out: &mut Vec<Effect>,
    ) -> bool {
        let last = page.entries.last().filter(|_| !page.done);
        if let Some((last, _)) = last {
            self.scan_meta(prefix, last.clone(), reading, out);
        }
        last.is_none()
    }
}
