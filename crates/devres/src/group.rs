//! Groups: what was taken since a moment, as one. What a probe that fails has taken is one.

use core::alloc::Layout;

use kmm_frame::Gfp;
use kmm_host::{ObjectSource, PageSource};
use lock_api::RawMutex;

use crate::node::{Kind, NodePtr};
use crate::{Device, DevresError};

/// A moment in the life of a device.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Group(u64);

impl<O: ObjectSource, A: PageSource, L: RawMutex> Device<O, A, L> {
    /// Marks the moment. Linux: `devres_open_group`.
    ///
    /// # Errors
    /// [`DevresError::OutOfMemory`].
    pub fn open_group(&self, gfp: Gfp) -> Result<Group, DevresError> {
        let node = self.note(Kind::Group(0), Layout::new::<()>(), gfp)?;
        let mut stack = self.stack.lock();
        let id = stack.next_group;
        stack.next_group += 1;
        stack.push(node.with_kind(Kind::Group(id)));
        Ok(Group(id))
    }

    /// Gives back all that was taken since, the last first; how many resources that were. Linux: `devres_release_group`.
    ///
    /// # Errors
    /// [`DevresError::NotManaged`] when the group is not the device's, or no more; nothing has changed then.
    pub fn release_group(&mut self, group: Group) -> Result<usize, DevresError> {
        let is_it = |kind| matches!(kind, Kind::Group(id) if id == group.0);
        if !self.stack.get_mut().iter().any(|node| is_it(node.kind())) {
            return Err(DevresError::NotManaged);
        }
        Ok(self.release_until(is_it))
    }

    /// Forgets the moment; what was taken since stays. Linux: `devres_remove_group`.
    ///
    /// # Errors
    /// As [`Device::release_group`].
    #[expect(unsafe_code, reason = "frees the note of the group")]
    pub fn remove_group(&self, group: Group) -> Result<(), DevresError> {
        let is_it = |node: NodePtr| matches!(node.kind(), Kind::Group(id) if id == group.0);
        let node = self.stack.lock().take(is_it);
        let node = node.ok_or(DevresError::NotManaged)?;
        // SAFETY: on no stack any more, and nobody has a pointer to it.
        unsafe { self.forget(node) };
        Ok(())
    }

    /// Sets the device up by `probe`. If it fails, what it took is given back, the last first. Linux: `really_probe`.
    ///
    /// # Errors
    /// What `probe` says; [`DevresError::OutOfMemory`], without trying, when there is not even memory for the mark.
    pub fn probe<T, E: From<DevresError>>(
        &mut self,
        gfp: Gfp,
        probe: impl FnOnce(&Self) -> Result<T, E>,
    ) -> Result<T, E> {
        let group = self.open_group(gfp)?;
        match probe(self) {
            Ok(made) => {
                self.remove_group(group)?;
                Ok(made)
            }
            Err(error) => {
                self.release_group(group)?;
                Err(error)
            }
        }
    }
}
