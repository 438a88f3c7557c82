//! Views: the right one reads and writes its fields, every wrong one is refused.
#![allow(missing_docs, reason = "tests")]

use kmm_frame::{
    AnonView, BufferView, FreeView, Order, Page, PageCacheView, PageFlags, PageUse, PageView, Pfn,
    SlabView, SwapEntry, SwappedView, TableView, View, WrongView,
};

/// Which of the six views a page lets in.
fn fitting(page: &Page) -> Vec<PageUse> {
    fn try_it<'p, V: View<'p>>(page: &'p Page) -> Option<PageUse> {
        match page.try_view::<V>() {
            Ok(view) => {
                assert!(core::ptr::eq(view.page(), page));
                Some(V::USE)
            }
            Err(wrong) => {
                let found = page.usage();
                assert_eq!(
                    wrong,
                    WrongView {
                        wanted: V::USE,
                        found
                    }
                );
                None
            }
        }
    }
    [
        try_it::<FreeView<'_>>(page),
        try_it::<PageCacheView<'_>>(page),
        try_it::<BufferView<'_>>(page),
        try_it::<AnonView<'_>>(page),
        try_it::<SwappedView<'_>>(page),
        try_it::<SlabView<'_>>(page),
        try_it::<TableView<'_>>(page),
    ]
    .into_iter()
    .flatten()
    .collect()
}

#[test]
fn a_free_block_has_an_order_and_a_list() {
    let page = Page::new();
    let order = Order::new(7).unwrap();
    let view = FreeView::claim(&page, order).unwrap();
    view.link(Some(Pfn::ZERO), Some(Pfn::new(128)));
    assert_eq!(
        (view.order(), view.prev(), view.next()),
        (order, Some(Pfn::ZERO), Some(Pfn::new(128)))
    );
    assert_eq!((page.private(), page.flags()), (7, PageFlags::BUDDY));
    assert_eq!(page.view(), PageView::Free { order });
    assert_eq!(fitting(&page), [PageUse::Free]);
    view.link(None, None);
    view.release();
    assert_eq!(page.view(), PageView::Kernel { private: 0 });
}

#[test]
fn a_page_of_a_file_has_a_mapping_and_buffers_if_noted() {
    let page = Page::new();
    let view = PageCacheView::claim(&page, 0x1000, 33).unwrap();
    assert_eq!((view.mapping(), view.index()), (0x1000, 33));
    assert_eq!((page.mapping(), page.index()), (0x1000, 33));
    let (mapping, index) = (0x1000, 33);
    assert_eq!(page.view(), PageView::PageCache { mapping, index });
    assert_eq!(fitting(&page), [PageUse::PageCache]);

    let buffers = view.attach_buffers(0x2000);
    assert_eq!((buffers.head(), page.private()), (0x2000, 0x2000));
    assert!(page.has_private());
    let head = 0x2000;
    assert_eq!(
        page.view(),
        PageView::Buffers {
            head,
            mapping,
            index
        }
    );
    assert_eq!(fitting(&page), [PageUse::PageCache, PageUse::Buffers]);
    assert_eq!(buffers.page_cache().index(), 33);

    assert_eq!(buffers.detach(), 0x2000);
    assert_eq!(page.view(), PageView::PageCache { mapping, index });
    assert_eq!(page.private(), 0);
    view.attach_buffers(1);
    view.release();
    assert_eq!(
        (page.usage(), page.flags()),
        (PageUse::Kernel, PageFlags::empty())
    );
    assert_eq!((page.mapping(), page.index(), page.private()), (0, 0, 0));
}

#[test]
fn an_anonymous_page_has_an_anon_vma_and_a_swap_entry_if_swapped() {
    let page = Page::new();
    let view = AnonView::claim(&page, 0x3000, 44).unwrap();
    assert_eq!((view.anon_vma(), view.index()), (0x3000, 44));
    let (anon_vma, index) = (0x3000, 44);
    assert_eq!(page.view(), PageView::Anon { anon_vma, index });
    assert_eq!(page.flags(), PageFlags::ANON | PageFlags::SWAPBACKED);
    assert_eq!(fitting(&page), [PageUse::Anon]);

    let entry = SwapEntry::new(0x55);
    let swapped = view.add_to_swap_cache(entry);
    assert_eq!(
        (swapped.entry(), swapped.entry().get(), page.private()),
        (entry, 0x55, 0x55)
    );
    assert_eq!(
        page.view(),
        PageView::Swapped {
            entry,
            anon_vma,
            index
        }
    );
    assert_eq!(fitting(&page), [PageUse::Anon, PageUse::Swapped]);
    assert_eq!(swapped.anon().index(), 44);

    assert_eq!(swapped.remove_from_swap_cache(), entry);
    assert_eq!(page.view(), PageView::Anon { anon_vma, index });
    view.add_to_swap_cache(entry);
    page.set_dirty();
    view.release();
    assert_eq!(
        page.flags(),
        PageFlags::DIRTY,
        "what is not of the use stays"
    );
}

#[test]
fn slabs_and_tables_have_words_of_their_own() {
    let page = Page::new();
    let slab = SlabView::claim(&page, 0x4000).unwrap();
    slab.set_counters(3);
    slab.set_freelist(4);
    assert_eq!(
        (slab.cache(), slab.counters(), slab.freelist()),
        (0x4000, 3, 4)
    );
    assert_eq!(
        (page.mapping(), page.private(), page.owner_word()),
        (0x4000, 3, 4)
    );
    assert_eq!(page.view(), PageView::Slab { cache: 0x4000 });
    assert_eq!(fitting(&page), [PageUse::Slab]);
    slab.release();
    assert_eq!((page.owner_word(), page.usage()), (0, PageUse::Kernel));

    let table = TableView::claim(&page).unwrap();
    assert_eq!((table.add_entries(512), table.add_entries(-2)), (512, 510));
    assert_eq!((table.nr_entries(), page.private()), (510, 510));
    assert_eq!(page.view(), PageView::Table { nr_entries: 510 });
    assert_eq!(fitting(&page), [PageUse::Table]);
}

#[test]
fn uses_without_fields_let_no_view_in() {
    let page = Page::new();
    page.set_private(9);
    assert_eq!(
        (page.usage(), page.view()),
        (PageUse::Kernel, PageView::Kernel { private: 9 })
    );
    assert_eq!(fitting(&page), []);
    page.set(PageFlags::VMALLOC);
    assert_eq!(
        (page.usage(), page.view()),
        (PageUse::Vmalloc, PageView::Vmalloc)
    );
    assert_eq!(fitting(&page), []);
    page.set_reserved();
    assert_eq!(
        (page.usage(), page.view()),
        (PageUse::Reserved, PageView::Reserved)
    );
    assert_eq!(fitting(&page), []);
}

#[test]
fn a_page_with_a_use_begins_no_other() {
    let page = Page::new();
    let order = Order::ZERO;
    let _ = AnonView::claim(&page, 1, 2).unwrap();
    let found = PageUse::Anon;
    let refused = |wanted| Some(WrongView { wanted, found });
    assert_eq!(FreeView::claim(&page, order).err(), refused(PageUse::Free));
    assert_eq!(
        PageCacheView::claim(&page, 0, 0).err(),
        refused(PageUse::PageCache)
    );
    assert_eq!(AnonView::claim(&page, 0, 0).err(), refused(PageUse::Anon));
    assert_eq!(SlabView::claim(&page, 0).err(), refused(PageUse::Slab));
    assert_eq!(TableView::claim(&page).err(), refused(PageUse::Table));
    assert_eq!(
        page.view(),
        PageView::Anon {
            anon_vma: 1,
            index: 2
        },
        "nothing changed"
    );
    let text = refused(PageUse::Slab).unwrap().to_string();
    assert_eq!(text, "page is used as Anon, not Slab");
}

#[test]
fn who_knows_the_use_need_not_ask() {
    let page = Page::new();
    let _ = PageCacheView::claim(&page, 5, 6).unwrap();
    assert_eq!(page.as_view::<PageCacheView<'_>>().index(), 6);
}

#[test]
#[should_panic(expected = "page is used as PageCache, not Anon")]
fn debug_builds_refuse_the_wrong_view() {
    let page = Page::new();
    let _ = PageCacheView::claim(&page, 5, 6).unwrap();
    let _ = page.as_view::<AnonView<'_>>();
}
