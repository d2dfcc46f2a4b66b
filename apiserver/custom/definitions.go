package custom

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"log/slog"
	"maps"
	"slices"

	"k8s.io/apiextensions-apiserver/pkg/apihelpers"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"

	"github.com/skiff-k8s/skiff/apiserver/reach"
	"github.com/skiff-k8s/skiff/apiserver/resource"
	"github.com/skiff-k8s/skiff/apiserver/store"
	"github.com/skiff-k8s/skiff/guard"
)

// Source is where definitions and their objects are read; a *store.Store.
type Source interface {
	Snapshot(ctx context.Context, r *resource.Resource, m store.Match, minRevision int64) ([]*store.Item, int64, error)
	Watch(ctx context.Context, r *resource.Resource, m store.Match, after int64) iter.Seq2[store.Step, error]
}

// Config of NewDefinitions. All fields are required.
type Config struct {
	Source  Source
	Cluster resource.Cluster
	// Builtin are the rows of the kinds that are there from the start, whose
	// names no definition can take.
	Builtin []*resource.Resource
	// Serve replaces the rows of custom resources that are served. Those of them
	// that are unnamed are for requests alone: no document is to name them yet.
	Serve func(ctx context.Context, rows, unnamed []*resource.Resource) error
	// Own records which fields of the status the server sets.
	Own func(live, obj resource.Object) error
	// Dial reaches conversion webhooks.
	Dial reach.Dial
	Log  *slog.Logger
}

// Definitions follows the definitions of a server. A definition is served when
// its names are accepted, then says that it is established, and then documents
// name it. Whoever reads that it is established can use the kind, and whoever
// finds it in discovery meets no write of its first status.
type Definitions struct {
	config  Config
	row     *resource.Resource
	builtin map[schema.GroupResource]bool
	after   int64 // revision up to which definitions have been read
	known   map[string]*known
	served  []*resource.Resource // as told to Serve last
	unnamed []*resource.Resource // likewise
	clean   guard.Group
}

// known is a definition as it was seen last.
type known struct {
	uid        types.UID
	generation int64
	group      string
	accepted   allNames
	agreed     bool  // it has all the names it asks for
	kind       *kind // nil: it is not served
	announced  bool  // it says that it is established
	cleaning   context.CancelFunc
}

// NewDefinitions makes Definitions that know of none.
func NewDefinitions(c Config) *Definitions {
	d := &Definitions{config: c, row: c.Cluster.Resource(apiextensionsv1.GroupName, "customresourcedefinitions"),
		builtin: make(map[schema.GroupResource]bool), known: make(map[string]*known)}
	for _, r := range c.Builtin {
		d.builtin[r.GR()] = true
	}
	return d
}

// Load serves what is defined. It must return before Run is called.
func (d *Definitions) Load(ctx context.Context) error {
	if d.row == nil {
		return errors.New("custom resources need the kind customresourcedefinitions.apiextensions.k8s.io, which is not served")
	}
	items, revision, err := d.config.Source.Snapshot(ctx, d.row, store.Match{Readable: true}, -1)
	if err != nil {
		return fmt.Errorf("read definitions: %w", err)
	}
	d.after = revision
	gone := maps.Clone(d.known)
	for _, item := range items {
		c := item.Object().(*definition)
		delete(gone, c.Name)
		d.note(c)
	}
	for name := range gone {
		d.forget(name)
	}
	if err := d.serve(ctx); err != nil {
		return err
	}
	for _, item := range items {
		d.settle(ctx, item.Object().(*definition))
	}
	return nil
}

// Run follows definitions until ctx ends.
func (d *Definitions) Run(ctx context.Context) error {
	defer d.clean.Wait()
	for {
		err := d.follow(ctx)
		if ctx.Err() != nil {
			return nil
		}
		if err != nil && !errors.Is(err, store.ErrExpired) {
			return err
		}
		if err := d.Load(ctx); err != nil {
			return err
		}
	}
}

// follow takes in changes, those that come together at once.
func (d *Definitions) follow(ctx context.Context) error {
	var changed []*definition
	var freed []string // groups in which names may have become free
	for step, err := range d.config.Source.Watch(ctx, d.row, store.Match{Readable: true}, d.after) {
		if err != nil {
			return fmt.Errorf("watch definitions: %w", err)
		}
		switch e := step.Event; {
		case e == nil:
		case step.Is:
			c := e.New.Object().(*definition)
			changed = append(changed, c)
			if was := d.known[c.Name]; was != nil && !equality.Semantic.DeepEqual(was.accepted, c.Status.AcceptedNames) {
				freed = append(freed, c.Spec.Group)
			}
			d.note(c)
		default:
			c := e.Old.Object().(*definition)
			freed = append(freed, c.Spec.Group)
			d.forget(c.Name)
		}
		d.after = step.Revision
		if step.More {
			continue
		}
		if len(changed)+len(freed) > 0 {
			if err := d.serve(ctx); err != nil && ctx.Err() == nil {
				d.config.Log.ErrorContext(ctx, "serve custom resources", "error", err)
			}
		}
		for _, c := range changed {
			d.settle(ctx, c)
		}
		for _, group := range freed {
			d.retry(ctx, group)
		}
		changed, freed = nil, nil
	}
	return nil
}

// note takes in a definition as it is now. Rows stay the same as long as what
// is defined and its names do.
func (d *Definitions) note(c *definition) {
	is := d.known[c.Name]
	if is == nil || is.uid != c.UID {
		d.forget(c.Name)
		is = &known{uid: c.UID, group: c.Spec.Group}
		d.known[c.Name] = is
	}
	names, condition := d.taken(c).accept(c.Spec.Names, c.Status.AcceptedNames)
	accepted := condition.Status == apiextensionsv1.ConditionTrue
	is.announced = apihelpers.IsCRDConditionTrue(c, apiextensionsv1.Established)
	serve := accepted || is.announced
	same := is.kind != nil && is.generation == c.Generation && (c.DeletionTimestamp == nil || len(is.kind.rows) > 0) && equality.Semantic.DeepEqual(is.kind.names, names)
	is.generation, is.accepted, is.agreed = c.Generation, names, accepted
	switch {
	case !serve || d.builtin[schema.GroupResource{Group: c.Spec.Group, Resource: names.Plural}]:
		is.kind = nil
	case !same:
		k, err := newKind(c, names, func(w *apiextensionsv1.WebhookConversion) (*webhook, error) {
			return newWebhook(w, d.config.Cluster, d.config.Dial)
		})
		if err != nil {
			d.config.Log.Error("definition cannot be served", "name", c.Name, "error", err)
			is.kind = nil
			return
		}
		is.kind = k
	}
	if is.kind != nil {
		is.kind.ending.Store(apihelpers.IsCRDConditionTrue(c, apiextensionsv1.Terminating))
	}
}

func (d *Definitions) forget(name string) {
	if was := d.known[name]; was != nil {
		if was.cleaning != nil {
			was.cleaning()
		}
		delete(d.known, name)
	}
}

// taken are the names of the other definitions of c's group.
func (d *Definitions) taken(c *definition) taken {
	t := newTaken()
	for name, other := range d.known {
		if name != c.Name && other.group == c.Spec.Group {
			t.add(other.accepted)
		}
	}
	return t
}

// serve tells the server the rows if they have changed.
func (d *Definitions) serve(ctx context.Context) error {
	var rows, unnamed []*resource.Resource
	for _, name := range slices.Sorted(maps.Keys(d.known)) {
		is := d.known[name]
		if is.kind == nil {
			continue
		}
		rows = append(rows, is.kind.rows...)
		if !is.announced {
			unnamed = append(unnamed, is.kind.rows...)
		}
	}
	if slices.Equal(rows, d.served) && slices.Equal(unnamed, d.unnamed) {
		return nil
	}
	if err := d.config.Serve(ctx, rows, unnamed); err != nil {
		return err
	}
	d.served, d.unnamed = rows, unnamed
	return nil
}

// retry looks again at the definitions of a group that lack names.
func (d *Definitions) retry(ctx context.Context, group string) {
	for name, is := range d.known {
		if is.group != group || is.agreed {
			continue
		}
		obj, err := d.config.Cluster.Get(ctx, d.row, "", name)
		if err != nil {
			continue // an event will tell
		}
		c := obj.(*definition)
		d.note(c)
		if err := d.serve(ctx); err != nil {
			d.config.Log.ErrorContext(ctx, "serve custom resources", "error", err)
			continue
		}
		d.settle(ctx, c)
	}
}

// settle writes the status a definition is to have, and goes on with its
// deletion.
func (d *Definitions) settle(ctx context.Context, c *definition) {
	is := d.known[c.Name]
	if is == nil || is.uid != c.UID {
		return
	}
	if status := plan(c, d.taken(c)); !equality.Semantic.DeepEqual(status, c.Status) {
		err := d.update(ctx, c, func(now *definition) error {
			if now.Generation != c.Generation {
				return errMoved
			}
			now.Status = plan(now, d.taken(now))
			return nil
		})
		if err != nil {
			d.config.Log.ErrorContext(ctx, "status of a definition", "name", c.Name, "error", err)
		}
	}
	if c.DeletionTimestamp != nil && is.cleaning == nil && apihelpers.CRDHasFinalizer(c, apiextensionsv1.CustomResourceCleanupFinalizer) {
		d.begin(ctx, is, c)
	}
}

// errMoved says that a definition is another than it was, of which an event
// tells.
var errMoved = errors.New("the definition has changed")

// update changes a definition, unless it was replaced or changed meanwhile.
func (d *Definitions) update(ctx context.Context, c *definition, change func(*definition) error) error {
	_, err := d.config.Cluster.Update(ctx, d.row, "", c.Name, false, func(obj resource.Object) error {
		now := obj.(*definition)
		if now.UID != c.UID {
			return errMoved
		}
		live := now.DeepCopy()
		if err := change(now); err != nil {
			return err
		}
		return d.config.Own(live, now)
	})
	if errors.Is(err, errMoved) || apierrors.IsNotFound(err) || ctx.Err() != nil {
		return nil
	}
	return err
}
