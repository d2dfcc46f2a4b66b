package skifftest

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/skiff-k8s/skiff/apiserver/backend"
)

// Snapshot is the state of a cluster at a moment: all its objects. It never changes, and lasts longer than the cluster.
type Snapshot struct {
	entries  []backend.Entry // in ascending order of revisions
	revision int64
	taken    time.Time
}

// Snapshot takes the state of the cluster as it is now. Controllers may be in the middle of something.
func (c *Cluster) Snapshot() *Snapshot {
	c.t.Helper()
	s, err := c.snapshot(context.Background())
	if err != nil {
		c.t.Fatalf("skifftest: snapshot: %v", err)
	}
	return s
}

func (c *Cluster) snapshot(ctx context.Context) (*Snapshot, error) {
	l, err := c.alive(ctx)
	if err != nil {
		return nil, err
	}
	page, err := l.backend.List(ctx, "", "", 0, 0)
	if err != nil {
		return nil, err
	}
	slices.SortFunc(page.Entries, func(a, b backend.Entry) int { return cmp.Compare(a.Revision, b.Revision) })
	return &Snapshot{entries: page.Entries, revision: page.Revision, taken: time.Now()}, nil
}

// engine is an engine that holds what s does; nil: nothing.
func (o options) engine(s *Snapshot) (Engine, error) {
	b, err := o.open()
	if err != nil || s == nil {
		return b, err
	}
	// What was before the snapshot counts as compacted: no watch can begin there.
	if err := b.Load(context.Background(), slices.Values(s.entries), s.revision, s.revision); err != nil {
		b.Close()
		return nil, err
	}
	return b, nil
}

// Fork runs another cluster, with the same options, that begins with the state this one has now. From then on neither
// knows of the other. It ends with t.
func (c *Cluster) Fork(t testing.TB) *Cluster {
	t.Helper()
	return c.Snapshot().Start(t, func(o *options) { *o = c.options })
}

// Start runs a cluster that begins with the state of the snapshot.
func (s *Snapshot) Start(t testing.TB, opts ...Option) *Cluster {
	t.Helper()
	c := newCluster(t, with(opts))
	c.start(s)
	return c
}

// Restore puts the cluster back to a state, which may be that of another cluster. Clients stay: their requests wait until
// it is done, and their watches end; those that are resumed from before it get 410 Gone, as after etcd's restore with
// --bump-revision and --mark-compacted, so that informers list anew.
func (c *Cluster) Restore(s *Snapshot) {
	c.t.Helper()
	err := c.within(func() error { return c.restore(s) })
	if err != nil {
		c.t.Fatalf("skifftest: restore: %v", err)
	}
}

func (c *Cluster) restore(s *Snapshot) error {
	c.changing.Lock()
	defer c.changing.Unlock()
	l, err := c.close()
	if err != nil {
		return err
	}
	if err := l.end(); err != nil {
		return err
	}
	newest, err := l.backend.Revision(context.Background())
	if err != nil {
		return err
	}
	if err := l.backend.Close(); err != nil {
		return err
	}
	bumped := *s
	bumped.revision = max(s.revision, newest) + 1
	b, err := c.options.engine(&bumped)
	if err != nil {
		return err
	}
	if err := c.begin(b, false); err != nil {
		return err
	}
	return c.listen()
}

// Restart stops the API server and all that runs beside it, and starts them anew with what is stored. Requests wait until it
// is done, watches end.
func (c *Cluster) Restart() {
	c.t.Helper()
	if err := c.within(c.restart); err != nil {
		c.t.Fatalf("skifftest: restart: %v", err)
	}
}

func (c *Cluster) restart() error {
	c.changing.Lock()
	defer c.changing.Unlock()
	l, err := c.close()
	if err != nil {
		return err
	}
	if err := l.end(); err != nil {
		return errors.Join(err, l.backend.Close())
	}
	if err := c.begin(l.backend, false); err != nil {
		return err
	}
	return c.listen()
}

// close has clients wait, and returns what they have reached so far.
func (c *Cluster) close() (*life, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.live == nil {
		return nil, errEnded
	}
	l := c.live
	c.live, c.opened = nil, make(chan struct{})
	return l, nil
}

// Template is a state that tests begin with. It is made when the first test asks for it, and kept for the others:
//
//	var installed = skifftest.NewTemplate(func(t testing.TB, c *skifftest.Cluster) { … create CRDs … })
//
//	func TestOne(t *testing.T) { c := installed.Fork(t) … }
type Template struct {
	setUp   func(testing.TB, *Cluster)
	options []Option

	mu       sync.Mutex
	snapshot *Snapshot
}

// NewTemplate describes a template: setUp brings a cluster that has just been started into the state.
func NewTemplate(setUp func(testing.TB, *Cluster), opts ...Option) *Template {
	return &Template{setUp: setUp, options: opts}
}

// Fork runs a cluster that begins with the state of the template.
func (p *Template) Fork(t testing.TB) *Cluster {
	t.Helper()
	return p.made(t).Start(t, p.options...)
}

func (p *Template) made(t testing.TB) *Snapshot {
	t.Helper()
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.snapshot.fits() {
		c := Start(t, p.options...)
		p.setUp(t, c)
		p.snapshot = c.Snapshot()
		c.end()
	}
	return p.snapshot
}

// fits reports whether the time at which s was taken is not far away. In a bubble of testing/synctest it is another one
// than outside, where objects made there would be of the past, or of the future.
func (s *Snapshot) fits() bool {
	return s != nil && !s.taken.After(time.Now()) && time.Since(s.taken) < time.Hour
}

// pristine are the states of clusters that have just been started, by their options, so that only the first start makes
// all objects.
var pristine = &starts{kept: make(map[startKey]*Snapshot)}

type starts struct {
	mu   sync.Mutex
	kept map[startKey]*Snapshot
}

// startKey are the options on which depends what objects there are.
type startKey struct {
	controllers, scheduler bool
	nodes                  int
}

func (o options) key() startKey { return startKey{o.controllers, o.scheduler, o.nodes} }

// of is nil if nothing is kept that fits.
func (p *starts) of(o options) *Snapshot {
	p.mu.Lock()
	defer p.mu.Unlock()
	if s := p.kept[o.key()]; s.fits() {
		return s
	}
	return nil
}

// keep takes the state of c for others. Each makes its own namespaces: by the UID of kube-system many a program tells one
// cluster from another.
func (p *starts) keep(ctx context.Context, c *Cluster) error {
	s, err := c.snapshot(ctx)
	if err != nil {
		return fmt.Errorf("keep the state: %w", err)
	}
	s.entries = slices.DeleteFunc(s.entries, func(e backend.Entry) bool { return strings.HasPrefix(e.Key, "/registry/namespaces/") })
	p.mu.Lock()
	defer p.mu.Unlock()
	p.kept[c.options.key()] = s
	return nil
}
