package store

import (
	"fmt"
	"reflect"
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
