// Package relational is what the engines over SQL databases share (sqlite,
// postgres, mysql): it keeps the contract of backend.Backend in three tables.
//
// skiff_writes has a row for every write, under its revision. A value that is
// NULL is a delete. skiff_meta has one row: the newest revision, and how far
// history has been forgotten. Whoever writes locks that row first, reads which
// revisions the keys have, decides, inserts, and commits with the new newest
// revision. So revisions have no gaps and are in the order of commits, however
// many servers write, and a reader that sees a revision sees all before it.
// One goroutine of a server writes: what has arrived during one transaction
// goes into the next.
//
// skiff_servers has a row for every server: the revision its newest transaction
// ended with, written by that transaction. It tells a server whose connection
// was lost during a commit whether the commit happened.
//
// Changes come from the server's own transactions as they are committed, and
// from the table where others wrote in between. A server learns of those by a
// notification, where the database has them, by polling, and by every read and
// write of its own.
//
// Nothing is refused because of load: what the database gives up to let others
// go first is done again. While the database is away, operations are tried
// again for some seconds and then fail with backend.ErrUnavailable; watches wait.
package relational

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"iter"
	"sync"
	"sync/atomic"
	"time"

	"github.com/skiff-k8s/skiff/apiserver/backend"
	"github.com/skiff-k8s/skiff/apiserver/backend/changelog"
	"github.com/skiff-k8s/skiff/apiserver/backend/coalesce"
	"github.com/skiff-k8s/skiff/guard"
)

// MaxKey is how long a key can be, in bytes: less than every database can have
// in an index.
const MaxKey = 1024

const (
	// recentBytes is how much of the newest history is kept in memory for
	// watches; older history is read from the database.
	recentBytes = 8 << 20
	// closeWait is how long Close waits for a database that does not answer.
	closeWait = 5 * time.Second
)

// Backend is an open database.
type Backend struct {
	db     Database
	server int64 // names this Backend among those of the database
	log    *changelog.Log
	heads  *coalesce.Query[Head]
	outage outage

	requests chan *request
	work     chan func()   // for the writer to do between transactions
	newest   atomic.Int64  // the newest revision known to be committed
	kept     atomic.Int64  // the newest revision known to be synced; for an Early database
	behind   chan struct{} // tells the follower that log may be behind newest
	publish  sync.Mutex    // held while the log is appended to
	notified atomic.Bool   // the database tells of writes

	ctx     context.Context // ends statements of the goroutines; cancelled late by Close
	cancel  context.CancelFunc
	stop    chan struct{} // closed by Close
	once    sync.Once
	stopped chan struct{} // closed when the writer has ended
	running guard.Group
}

var (
	_ backend.Backend = (*Backend)(nil)
	_ backend.Loader  = (*Backend)(nil)
)

// Open makes the tables if they are not there. The backend owns db from now on,
// also if there is an error; it must be closed.
func Open(ctx context.Context, db Database) (*Backend, error) {
	ctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	b := &Backend{
		db: db, server: newServer(),
		requests: make(chan *request, maxBatch), behind: make(chan struct{}, 1),
		work: make(chan func()),
		ctx:  ctx, cancel: cancel, stop: make(chan struct{}), stopped: make(chan struct{}),
	}
	b.heads = coalesce.New("revision of storage", b.readHead)
	var head Head
	err := b.again(ctx, "open storage", func(ctx context.Context) (err error) {
		head, err = b.prepare(ctx)
		return err
	})
	if err != nil {
		cancel()
		return nil, errors.Join(err, db.Close())
	}
	b.newest.Store(head.Revision)
	b.log = changelog.New(head.Revision, recentBytes)
	guard.Go("storage", b.write)
	b.running.Go("lifetimes of storage", b.expire)
	if db.Shared() {
		b.running.Go("changes of storage", b.follow)
		b.running.Go("notifications of storage", b.listen)
	}
	return b, nil
}

// newServer is a number that no other server has.
func newServer() int64 {
	var number [8]byte
	_, _ = rand.Read(number[:]) // never fails
	return int64(binary.LittleEndian.Uint64(number[:]) >> 1)
}

// Close waits for the writes under way, ends all watches and closes the
// database.
func (b *Backend) Close() (err error) {
	b.once.Do(func() {
		close(b.stop)
		late := guard.After(closeWait, "storage", b.cancel)
		<-b.stopped
		late.Stop()
		b.cancel()
		b.running.Wait()
		b.heads.Close(backend.ErrClosed)
		b.log.Close()
		err = b.db.Close()
	})
	return err
}

func (b *Backend) closed() bool {
	select {
	case <-b.stop:
		return true
	default:
		return false
	}
}

// Get reads a key, as backend.Backend says.
func (b *Backend) Get(ctx context.Context, key string) (entry backend.Entry, revision int64, err error) {
	err = b.again(ctx, "read storage", func(ctx context.Context) error {
		entry, revision, err = b.selectKey(ctx, key)
		return err
	})
	if err != nil {
		return backend.Entry{}, 0, err
	}
	b.saw(revision)
	if entry.Revision == 0 {
		return backend.Entry{}, revision, backend.ErrNotFound
	}
	return entry, revision, nil
}

// List reads entries, as backend.Backend says.
func (b *Backend) List(ctx context.Context, prefix, after string, limit int, revision int64) (page backend.Page, err error) {
	err = b.again(ctx, "read storage", func(ctx context.Context) error {
		page, err = b.selectPage(ctx, prefix, after, limit, revision)
		return err
	})
	if err != nil {
		return backend.Page{}, err
	}
	b.saw(page.Revision)
	return page, nil
}

// Watch yields changes, as backend.Backend says.
func (b *Backend) Watch(ctx context.Context, prefix string, after int64) iter.Seq2[backend.Change, error] {
	return b.log.Watch(ctx, prefix, after, func(after int64) ([]backend.Change, error) {
		return b.older(ctx, after)
	})
}

// Revision is the newest revision of the database.
func (b *Backend) Revision(ctx context.Context) (int64, error) {
	if b.closed() {
		return 0, backend.ErrClosed
	}
	if !b.db.Shared() {
		return b.log.Last(), nil
	}
	head, err := b.heads.Ask(ctx)
	if err != nil {
		return 0, err
	}
	b.saw(head.Revision)
	return head.Revision, nil
}

// readHead asks the database for its head, until it answers or has been away
// for too long.
func (b *Backend) readHead(ctx context.Context) (head Head, err error) {
	err = b.again(ctx, "read storage", func(ctx context.Context) error {
		head, err = b.selectHead(ctx)
		return err
	})
	return head, err
}

// saw notes that a revision has been committed, by whomever.
func (b *Backend) saw(revision int64) {
	if raise(&b.newest, revision) {
		b.wakeFollower()
	}
}

// raise sets n to a greater value; false if it is not greater.
func raise(n *atomic.Int64, value int64) bool {
	for {
		old := n.Load()
		if value <= old {
			return false
		}
		if n.CompareAndSwap(old, value) {
			return true
		}
	}
}

func (b *Backend) wakeFollower() {
	select {
	case b.behind <- struct{}{}:
	default:
	}
}

// wait lets time pass; false if the backend was closed meanwhile.
func (b *Backend) wait(d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-b.stop:
		return false
	}
}

// prefixEnd is the first key after all that begin with prefix.
func prefixEnd(prefix string) string {
	for n := len(prefix); n > 0; n-- {
		if last := prefix[n-1]; last < 0xff {
			return prefix[:n-1] + string([]byte{last + 1})
		}
	}
	return lastKey
}
