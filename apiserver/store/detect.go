package store

import (
	"bytes"
	"fmt"
	"reflect"
	"slices"
	"strconv"
	"sync"

	"k8s.io/apimachinery/pkg/util/diff"

	"github.com/skiff-k8s/skiff/apiserver/resource"
)

// mostWatched is how many objects a detector watches at a time.
const mostWatched = 4096

// detector finds out who changes what all share: it compares the objects of the
// cache with copies that it took when they were made. A nil one does nothing.
type detector struct {
	changed func(difference string)

	mu      sync.Mutex
	watched []watched
}

type watched struct{ object, copy resource.Object }

// watch compares obj later on.
func (d *detector) watch(obj resource.Object) {
	if d == nil {
		return
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if len(d.watched) == mostWatched {
		d.compare(mostWatched / 2)
	}
	d.watched = append(d.watched, watched{obj, obj.DeepCopyObject().(resource.Object)})
}

// compareWritten decodes an item that was not, and compares what was said of it with what a reader finds.
func (d *detector) compareWritten(item *Item) {
	if d == nil {
		return
	}
	obj, err := decode(item.kept.r, item.kept.bytes)
	if err != nil {
		d.changed(fmt.Sprintf("%s cannot be read again: %v", item.key, err))
		return
	}
	obj.SetResourceVersion(strconv.FormatInt(item.revision, 10))
	read, err := obj.(interface{ Marshal() ([]byte, error) }).Marshal()
	head, rest, ok := item.Message(nil, nil)
	if written := slices.Concat(head, rest); err != nil || !ok || !bytes.Equal(written, read) {
		d.changed(fmt.Sprintf("%T %s is written as %q and read as %q (%v)", obj, item.key, written, read, err))
	}
	if labels := newLabelSet(obj.GetLabels()); labels.compare(item.labels) != 0 || !slices.Equal(item.kept.values(obj), item.kept.fields) {
		d.changed(fmt.Sprintf("%T %s has labels %v and fields %v where it is read, not %v and %v",
			obj, item.key, labels, item.kept.values(obj), item.labels, item.kept.fields))
	}
}

// check compares everything that is watched.
func (d *detector) check() {
	if d == nil {
		return
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.compare(len(d.watched))
}

// compare compares the oldest n objects, and watches them no longer.
func (d *detector) compare(n int) {
	for _, w := range d.watched[:n] {
		if !reflect.DeepEqual(w.object, w.copy) {
			d.changed(fmt.Sprintf("%T %s/%s at revision %s was changed in the cache: %s",
				w.copy, w.copy.GetNamespace(), w.copy.GetName(), w.copy.GetResourceVersion(), diff.Diff(w.copy, w.object)))
		}
	}
	d.watched = append(d.watched[:0:0], d.watched[n:]...)
}
