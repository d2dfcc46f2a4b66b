package disk

import (
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"slices"
)

// sector is what a disk writes whole or not at all.
const sector = 512

// file is what is known of a file.
type file struct {
	folder   bool
	linked   bool // a loss of power leaves it in its folder
	unlinked bool // it is not there any more, but after a loss of power it may be again
	// replaced is the file that a loss of power may leave under the name in place of
	// this one; nil: none.
	replaced *file
	durable  []byte // what is on the disk for sure
	pending  []Call // done since, and not synced
}

// newFile is a file as it is before the first call that is seen. What is there
// then is taken to be on the disk; an empty file may be one that was just made.
func newFile(path string) *file {
	info, err := os.Stat(path)
	if err == nil && info.IsDir() {
		return &file{folder: true, linked: true}
	}
	content, err := os.ReadFile(path)
	return &file{durable: content, linked: err == nil && len(content) > 0}
}

// named is the file that a loss of power leaves under the name of f for sure; nil if
// it may leave none.
func (f *file) named() *file {
	switch {
	case f.linked:
		return f
	case f.replaced != nil:
		return f.replaced.named()
	}
	return nil
}

// sync makes all that was done durable.
func (f *file) sync() {
	if len(f.pending) == 0 {
		return
	}
	f.durable = slices.Clone(f.durable) // another name may have it too
	for _, c := range f.pending {
		f.durable = apply(f.durable, c, nil)
	}
	f.pending = nil
}

// apply does a write or a truncation. lost says which sectors of a write, by
// their numbers in the file, do not make it to the disk.
func apply(content []byte, c Call, lost func(sector int64) bool) []byte {
	if c.Kind == Truncate {
		return resize(content, c.Offset)
	}
	end := c.Offset + int64(len(c.Data))
	content = resize(content, max(int64(len(content)), end))
	for at := c.Offset; at < end; {
		next := min(end, (at/sector+1)*sector)
		if lost == nil || !lost(at/sector) {
			copy(content[at:next], c.Data[at-c.Offset:])
		}
		at = next
	}
	return content
}

func resize(content []byte, size int64) []byte {
	if int64(len(content)) >= size {
		return content[:size]
	}
	return append(content, make([]byte, size-int64(len(content)))...)
}

// LosePower makes the files what they may be after a loss of power: what was
// synced is there; of what was not, some calls, and some sectors of the last
// writes, which random decides. No program may run that is watched.
func (d *Disk) LosePower(random *rand.Rand) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	for path, f := range d.files {
		if f.folder {
			continue
		}
		if f.replaced != nil && random.IntN(2) == 0 {
			f = f.replaced
		}
		content := f.afterLoss(random)
		var err error
		switch {
		case (f.linked || f.replaced != nil) && !f.unlinked || random.IntN(2) == 0:
			err = os.WriteFile(path, content, 0o600)
		default:
			if err = os.Remove(path); errors.Is(err, fs.ErrNotExist) {
				err = nil
			}
			content = nil
		}
		if err != nil {
			return fmt.Errorf("lose power: %w", err)
		}
	}
	// What comes next is seen from what is there now.
	clear(d.files)
	return nil
}

// afterLoss is what a file may be after a loss of power.
func (f *file) afterLoss(random *rand.Rand) []byte {
	content := append([]byte(nil), f.durable...)
	switch random.IntN(3) {
	case 0: // nothing that was not synced
	case 1: // all up to some call, and a part of that
		n := random.IntN(len(f.pending) + 1)
		for i, c := range f.pending[:n] {
			var lost func(int64) bool
			if i == n-1 {
				lost = func(int64) bool { return random.IntN(2) == 0 }
			}
			content = apply(content, c, lost)
		}
	default: // any, in any order
		for _, c := range f.pending {
			if random.IntN(2) == 0 {
				content = apply(content, c, func(int64) bool { return random.IntN(3) == 0 })
			}
		}
	}
	return content
}
