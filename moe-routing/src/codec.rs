//! Route traces as bytes, for files and pipes.
//!
//! Little-endian: `KRT1`; experts `u16`; K `u8`; layers `u16` and that many `u16`; segments `u32` and that many
//! (first row `u32`, policy version `u64`); token digest `u64`; rows `u32`; the validity bits, lowest first,
//! padded to bytes; ids `[rows][layers][K]`, `u8` up to 256 experts, else `u16`; FNV-1a of all before, `u64`.

use crate::trace::{Ids, RouteShape, RouteTrace, fnv1a};
use crate::{Error, Result};

const MAGIC: &[u8; 4] = b"KRT1";
const CHECKSUM_SEED: u64 = 0xcbf2_9ce4_8422_2325;

impl RouteTrace {
    /// The trace as bytes.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(self.id_bytes() + self.valid.len() + 64);
        out.extend_from_slice(MAGIC);
        out.extend_from_slice(&(self.shape.experts() as u16).to_le_bytes());
        out.push(self.shape.top_k() as u8);
        out.extend_from_slice(&(self.shape.layers().len() as u16).to_le_bytes());
        self.shape.layers().for_each(|l| out.extend_from_slice(&(l as u16).to_le_bytes()));
        out.extend_from_slice(&(self.versions.len() as u32).to_le_bytes());
        for (row, version) in &self.versions {
            out.extend_from_slice(&row.to_le_bytes());
            out.extend_from_slice(&version.to_le_bytes());
        }
        out.extend_from_slice(&self.digest.to_le_bytes());
        out.extend_from_slice(&(self.rows as u32).to_le_bytes());
        out.extend_from_slice(&self.valid);
        match &self.ids {
            Ids::U8(ids) => out.extend_from_slice(ids),
            Ids::U16(ids) => ids.iter().for_each(|id| out.extend_from_slice(&id.to_le_bytes())),
        }
        out.extend_from_slice(&fnv1a(CHECKSUM_SEED, &out).to_le_bytes());
        out
    }

    /// The trace that [`RouteTrace::to_bytes`] wrote. Nothing in it is taken on trust: a flipped bit, a cut
    /// end, an id out of range are errors.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self> {
        let Some((body, checksum)) = bytes.split_last_chunk::<8>() else {
            return Err(Error::Codec("it is too short"));
        };
        if !body.starts_with(MAGIC) {
            return Err(Error::Codec("it does not start with KRT1"));
        }
        if fnv1a(CHECKSUM_SEED, body) != u64::from_le_bytes(*checksum) {
            return Err(Error::Codec("the checksum does not fit"));
        }
        let mut rest = Reader(&body[MAGIC.len()..]);
        let (experts, [top_k]) = (u16::from_le_bytes(rest.take()?), rest.take()?);
        let layers = u16::from_le_bytes(rest.take()?);
        let layers: Vec<usize> =
            (0..layers).map(|_| Ok(usize::from(u16::from_le_bytes(rest.take()?)))).collect::<Result<_>>()?;
        let shape = RouteShape::new(usize::from(experts), usize::from(top_k), &layers)?;
        let segments = u32::from_le_bytes(rest.take()?);
        let versions: Vec<(u32, u64)> = (0..segments)
            .map(|_| Ok((u32::from_le_bytes(rest.take()?), u64::from_le_bytes(rest.take()?))))
            .collect::<Result<_>>()?;
        let digest = u64::from_le_bytes(rest.take()?);
        let rows = u32::from_le_bytes(rest.take()?) as usize;
        if versions.first().is_none_or(|v| v.0 != 0)
            || !versions.is_sorted_by(|a, b| a.0 < b.0)
            || versions.iter().any(|v| v.0 as usize > rows)
        {
            return Err(Error::Codec("its policy versions are out of order"));
        }
        let valid = rest.slice(rows.div_ceil(8))?.to_vec();
        if !rows.is_multiple_of(8) && valid.last().is_some_and(|last| last >> (rows % 8) != 0) {
            return Err(Error::Codec("a row beyond the last is marked valid"));
        }
        let count = rows.checked_mul(shape.row_len()).ok_or(Error::Codec("it is too long"))?;
        let ids = if experts <= 256 {
            Ids::U8(rest.slice(count)?.to_vec())
        } else {
            let wide = rest.slice(count.checked_mul(2).ok_or(Error::Codec("it is too long"))?)?;
            Ids::U16(wide.as_chunks::<2>().0.iter().map(|b| u16::from_le_bytes(*b)).collect())
        };
        if !rest.0.is_empty() {
            return Err(Error::Codec("there is more after its end"));
        }
        let trace = Self { shape, ids, valid, rows, versions, digest };
        trace.check_ids()?;
        Ok(trace)
    }

    fn check_ids(&self) -> Result<()> {
        let experts = self.shape.experts();
        for row in 0..self.rows {
            for (ordinal, layer) in self.shape.layers().enumerate() {
                let Some(ids) = self.ids(row, ordinal) else { continue };
                let ids: Vec<u32> = ids.collect();
                if crate::gates::check_ids(row, &ids, experts).is_err() {
                    return Err(Error::TraceIds { row, layer, ids, experts });
                }
            }
        }
        Ok(())
    }
}

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn slice(&mut self, len: usize) -> Result<&'a [u8]> {
        let (head, rest) = self.0.split_at_checked(len).ok_or(Error::Codec("it ends too early"))?;
        self.0 = rest;
        Ok(head)
    }

    fn take<const N: usize>(&mut self) -> Result<[u8; N]> {
        let (head, rest) = self.0.split_first_chunk().ok_or(Error::Codec("it ends too early"))?;
        self.0 = rest;
        Ok(*head)
    }
}
