// Package file is the engine behind file:///path: one bbolt database, used by
// one process at a time.
//
// Every write is one record under its revision, so that writing appends to the
// database; which key has which revisions is known by an index in memory that
// is rebuilt when the file is opened. Writes that arrive while a transaction
// is being synced share the next one. Nothing is acknowledged before it is
// synced; after an error nothing is taken for written, and reads go on.
package file

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"iter"
	"os"
	"path/filepath"
	"sync"
	"time"

	"go.etcd.io/bbolt"
	berrors "go.etcd.io/bbolt/errors"
	"golang.org/x/sys/unix"

	"github.com/skiff-k8s/skiff/apiserver/backend"
	"github.com/skiff-k8s/skiff/apiserver/backend/changelog"
	"github.com/skiff-k8s/skiff/apiserver/backend/lifetime"
	"github.com/skiff-k8s/skiff/apiserver/backend/revisions"
	"github.com/skiff-k8s/skiff/guard"
)

// recentBytes is how much of the newest history is kept in memory for watches;
// older history is read from the file.
const recentBytes = 8 << 20

// Backend is an open file.
type Backend struct {
	path      string // that no link leads elsewhere from
	log       *changelog.Log
	lifetimes *lifetime.Queue
	requests  chan *request
	stop      chan struct{} // closed by Close
	stopped   chan struct{} // closed when the writer has ended
	broken    error         // why nothing can be written any more; the writer's own

	compacting  chan struct{} // holds an element while history is forgotten and the file made smaller
	dropped     []int64       // revisions that are forgotten and still in the file; for who holds compacting
	shrinkAfter time.Time     // for who holds compacting

	mu        sync.RWMutex // of what follows; only the writer changes it
	db        *bbolt.DB
	index     *revisions.Index
	revision  int64
	compacted int64
	closed    bool
}

var (
	_ backend.Backend = (*Backend)(nil)
	_ backend.Loader  = (*Backend)(nil)
)

// Open opens the database at path, and makes it and its directory if they are
// not there. It must be closed. backend.ErrInUse.
func Open(path string) (*Backend, error) { return start(path, true) }

// OpenUnsynced is Open of a database that nobody will miss: what is written outlives the process, and need not outlive the
// machine.
func OpenUnsynced(path string) (*Backend, error) { return start(path, false) }

func start(path string, synced bool) (*Backend, error) {
	if err := makeFolder(filepath.Dir(path)); err != nil {
		return nil, fmt.Errorf("open storage: %w", err)
	}
	db, err := open(path)
	if err != nil {
		return nil, fmt.Errorf("open storage %s: %w", path, err)
	}
	db.NoSync, db.NoGrowSync = !synced, !synced
	if path, err = filepath.EvalSymlinks(path); err == nil {
		err = removeLeftover(path)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("open storage: %w", err), db.Close())
	}
	b := &Backend{
		path: path, db: db, index: revisions.New(), compacting: make(chan struct{}, 1),
		requests: make(chan *request, maxBatch), stop: make(chan struct{}), stopped: make(chan struct{}),
	}
	ends, err := b.load()
	if err != nil {
		return nil, errors.Join(fmt.Errorf("read storage %s: %w", path, err), db.Close())
	}
	b.log = changelog.New(b.revision, recentBytes)
	b.lifetimes = lifetime.Start(b.Delete)
	for _, e := range ends {
		b.lifetimes.Add(e.key, e.revision, e.at)
	}
	guard.Go("storage", b.write)
	return b, nil
}

// open opens a database that is sound, and makes it if there is none. Damage
// that only shows when it is opened for writing is an error too.
func open(path string) (db *bbolt.DB, err error) {
	defer func() {
		if p := recover(); p != nil {
			db, err = nil, fmt.Errorf("%w: %v", ErrDamaged, p)
		}
	}()
	if err = create(path); err == nil {
		err = verify(path)
	}
	if err == nil {
		db, err = lock(path, os.OpenFile)
	}
	if errors.Is(err, berrors.ErrTimeout) {
		return nil, backend.ErrInUse
	}
	return db, err
}

func options() *bbolt.Options {
	return &bbolt.Options{
		Timeout:        lockTimeout,
		NoFreelistSync: true, // one page less per write; the list is found by a scan when the file is opened
		FreelistType:   bbolt.FreelistMapType,
	}
}

// create makes an empty database if there is no file. The file gets its name
// when all that a database begins with is on the disk, so that it is there whole
// or not at all, whenever the process or the machine ends; and it does not take
// the place of one that another process made meanwhile.
func create(path string) error {
	if _, err := os.Lstat(path); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	unnamed := path + ".new"
	o := options()
	o.OpenFile = openEmpty
	db, err := bbolt.Open(unnamed, 0o600, o)
	if err != nil {
		return err
	}
	err = db.Update(prepare)
	if err == nil {
		err = os.Link(unnamed, path)
	}
	if errors.Is(err, fs.ErrExist) {
		err = nil
	}
	err = errors.Join(err, os.Remove(unnamed), db.Close())
	if err != nil {
		return err
	}
	return syncFolder(filepath.Dir(path))
}

// openEmpty opens what may be left of an attempt that was interrupted, without
// what is in it, unless it is another process that is at it now.
func openEmpty(name string, flag int, mode os.FileMode) (*os.File, error) {
	f, err := os.OpenFile(name, flag, mode)
	if err != nil {
		return nil, err
	}
	err = unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	if errors.Is(err, unix.EWOULDBLOCK) {
		err = backend.ErrInUse
	}
	if err == nil {
		err = f.Truncate(0)
	}
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

// makeFolder makes a folder, and those above it, so that a loss of power leaves
// them.
func makeFolder(path string) error {
	if _, err := os.Stat(path); err == nil || !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	above := filepath.Dir(path)
	if err := makeFolder(above); err != nil {
		return err
	}
	if err := os.Mkdir(path, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	return syncFolder(above)
}

// syncFolder has what is in a folder found there after a loss of power. That
// files are synced says nothing of their names.
func syncFolder(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}

// Close waits for the writes under way, ends all watches and closes the file.
func (b *Backend) Close() error {
	b.mu.Lock()
	was := b.closed
	b.closed = true
	b.mu.Unlock()
	if was {
		return nil
	}
	b.lifetimes.Stop()
	close(b.stop)
	<-b.stopped
	b.compacting <- struct{}{} // nobody copies the file any more
	b.log.Close()
	return b.db.Close()
}

// Get reads a key, as backend.Backend says.
func (b *Backend) Get(ctx context.Context, key string) (backend.Entry, int64, error) {
	b.mu.RLock()
	at, newest := b.index.Current(key), b.revision
	tx, err := b.read()
	b.mu.RUnlock()
	if err != nil {
		return backend.Entry{}, 0, err
	}
	defer tx.Rollback()
	if at == backend.Absent {
		return backend.Entry{}, newest, backend.ErrNotFound
	}
	entry, err := entryOf(tx, key, at)
	return entry, newest, err
}

// List reads entries, as backend.Backend says.
func (b *Backend) List(ctx context.Context, prefix, after string, limit int, revision int64) (backend.Page, error) {
	found, page, tx, err := b.find(prefix, after, limit, revision)
	if err != nil {
		return backend.Page{}, err
	}
	defer tx.Rollback()
	for _, f := range found {
		entry, err := entryOf(tx, f.Key, f.Revision)
		if err != nil {
			return backend.Page{}, err
		}
		page.Entries = append(page.Entries, entry)
	}
	return page, nil
}

// find looks up what List returns and opens a transaction that has the values,
// also if they are compacted meanwhile.
func (b *Backend) find(prefix, after string, limit int, revision int64) ([]revisions.Entry, backend.Page, *bbolt.Tx, error) {
	b.mu.RLock()
	defer b.mu.RUnlock()
	switch {
	case revision == 0:
		revision = b.revision
	case revision < b.compacted:
		return nil, backend.Page{}, nil, backend.ErrCompacted
	case revision > b.revision:
		return nil, backend.Page{}, nil, backend.ErrFuture
	}
	found, more := b.index.List(prefix, after, limit, revision)
	tx, err := b.read()
	return found, backend.Page{Revision: revision, More: more}, tx, err
}

// read begins a transaction for reading. The caller holds mu, so that what the
// index names is there.
func (b *Backend) read() (*bbolt.Tx, error) {
	if b.closed {
		return nil, backend.ErrClosed
	}
	tx, err := b.db.Begin(false)
	if err != nil {
		return nil, fmt.Errorf("read storage: %w", err)
	}
	return tx, nil
}

// Watch yields changes, as backend.Backend says.
func (b *Backend) Watch(ctx context.Context, prefix string, after int64) iter.Seq2[backend.Change, error] {
	return b.log.Watch(ctx, prefix, after, b.older)
}

// older reads the changes after a revision from the file.
func (b *Backend) older(after int64) ([]backend.Change, error) {
	b.mu.RLock()
	compacted, newest := b.compacted, b.revision
	tx, err := b.read()
	b.mu.RUnlock()
	if err != nil {
		return nil, err
	}
	defer tx.Rollback()
	if after < compacted {
		return nil, backend.ErrCompacted
	}
	return changesOf(tx, after, min(newest, after+olderBatch))
}

// olderBatch is how many changes older reads at a time.
const olderBatch = 256

// Revision is the newest revision.
func (b *Backend) Revision(ctx context.Context) (int64, error) {
	b.mu.RLock()
	defer b.mu.RUnlock()
	if b.closed {
		return 0, backend.ErrClosed
	}
	return b.revision, nil
}
