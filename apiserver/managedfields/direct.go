package managedfields

import (
	"bytes"
	"cmp"
	"errors"
	"reflect"
	"slices"
	"sync"
	"time"
	"unicode/utf8"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"sigs.k8s.io/structured-merge-diff/v6/fieldpath"
	smd "sigs.k8s.io/structured-merge-diff/v6/typed"

	"github.com/skiff-k8s/skiff/apiserver/codec"
	"github.com/skiff-k8s/skiff/apiserver/resource"
)

// direct records who changed which fields of built-in objects, as the library does, without building trees of values of
// both objects. What it has no answer to is the library's: see update.
type direct struct {
	version     string // group and version of the kind
	subresource string
	shape       *shape
	empty       *smd.TypedValue
	skipped     []string         // fields at the top that nobody owns by this path
	reset       fieldpath.Filter // the same for those further down; nil if there are none
	sets        sets
}

// newDirect is nil for kinds that are the library's: custom resources, kinds that are stored as another version, and
// those without a schema.
func newDirect(r *resource.Resource, subresource string) *direct {
	if r.Custom != nil || r != r.Stored {
		return nil
	}
	empty := codec.As(r.New(), r.GVK())
	types := knownTypes(empty)
	if types == nil {
		return nil
	}
	typed, err := types.ObjectToTyped(empty)
	if err != nil {
		return nil
	}
	d := &direct{version: r.GroupVersion().String(), subresource: subresource, empty: typed}
	d.shape = shapeOf(typed.Schema(), typed.TypeRef(), reflect.TypeOf(empty).Elem())
	deep := fieldpath.NewSet()
	for _, path := range resetPaths(r, subresource) {
		if len(path) == 1 {
			d.skipped = append(d.skipped, *path[0].FieldName)
			continue
		}
		deep.Insert(path)
	}
	if !deep.Empty() {
		d.reset = fieldpath.NewExcludeSetFilter(deep)
	}
	return d
}

// mostUpdaters is how many entries of updates are kept apart; the library joins the oldest when there are more.
const mostUpdaters = 10

// nobodys are the fields of metadata that are nobody's. Neither are apiVersion, kind, and metadata itself.
var nobodys = []string{"name", "namespace", "creationTimestamp", "selfLink", "uid", "clusterName", "generation", "managedFields", "resourceVersion"}

// stripped is the set of fields that are nobody's.
var stripped = func() *fieldpath.Set {
	set := fieldpath.NewSet(fieldpath.MakePathOrDie("apiVersion"), fieldpath.MakePathOrDie("kind"), fieldpath.MakePathOrDie("metadata"))
	for _, name := range nobodys {
		set.Insert(fieldpath.MakePathOrDie("metadata", name))
	}
	return set
}()

// update records in obj what manager changed. It returns false, with nothing changed, for what is the library's:
// managers that know the object in another version, more of them than are kept apart, fields of which clients may send
// anything (RawExtension), lists with elements that are there twice or have no key, and very many elements side by side.
func (d *direct) update(live, obj resource.Object, manager string) bool {
	if d == nil || reflect.TypeOf(live) != reflect.TypeOf(obj) || !utf8.ValidString(manager) {
		return false
	}
	given := obj.GetManagedFields()
	managed, ok := d.managers(live, given)
	if !ok {
		return false
	}
	obj.SetManagedFields(nil)
	if len(managed) == 0 && live.GetUID() != "" {
		return true // nobody is known to have made it
	}
	if len(managed) == 0 {
		if fields, ok := d.created(reflect.ValueOf(live), reflect.ValueOf(obj)); ok {
			obj.SetManagedFields(d.made(fields, manager))
			return true
		}
	}
	changes, ok := d.compare(live, obj)
	if ok {
		managed, ok = d.changed(managed, changes, manager)
	}
	if !ok {
		obj.SetManagedFields(given)
		return false
	}
	obj.SetManagedFields(encoded(managed))
	return true
}

// made are the entries of an object whose fields are all of one manager.
func (d *direct) made(fields []byte, manager string) []metav1.ManagedFieldsEntry {
	if string(fields) == "{}" {
		return nil
	}
	return encoded([]owner{d.owner(manager, &fieldSet{bytes: fields})})
}

func (d *direct) compare(live, obj runtime.Object) (*comparison, bool) {
	c, ok := d.shape.compare(reflect.ValueOf(live), reflect.ValueOf(obj), func(name string) bool {
		return name == "apiVersion" || name == "kind" || slices.Contains(d.skipped, name)
	})
	if ok && d.reset != nil {
		for _, set := range []**fieldpath.Set{&c.removed, &c.modified, &c.added} {
			if *set != nil {
				*set = d.reset.Filter(*set)
			}
		}
	}
	return c, ok
}

// entryKey is what an entry of managed fields is known by.
type entryKey struct{ manager, operation, version, subresource string }

// owner is an entry of managed fields.
type owner struct {
	key     entryKey
	version string
	time    *metav1.Time
	fields  *fieldSet
}

func keyOf(e *metav1.ManagedFieldsEntry) entryKey {
	k := entryKey{e.Manager, string(e.Operation), e.APIVersion, e.Subresource}
	if e.Operation == metav1.ManagedFieldsOperationApply {
		k.version = "" // whoever applies has one entry
	}
	return k
}

// managers are the entries an update begins with: those of the object as it was sent, if it says any that can be read
// and may say so, else those it had. ok is false if they are the library's.
func (d *direct) managers(live resource.Object, given []metav1.ManagedFieldsEntry) (owners []owner, ok bool) {
	if d.subresource == "" {
		if given != nil && (len(given) == 0 || len(given) == 1 && reflect.DeepEqual(given[0], metav1.ManagedFieldsEntry{})) {
			return nil, true // they are to be forgotten
		}
		owners, valid, ok := d.decode(given)
		if !ok || valid && len(owners) > 0 {
			return owners, ok
		}
	}
	owners, valid, ok := d.decode(live.GetManagedFields())
	if !valid {
		return nil, ok
	}
	return owners, ok
}

// decode reads entries. valid is false if they are none, ok if they are the library's.
func (d *direct) decode(entries []metav1.ManagedFieldsEntry) (owners []owner, valid, ok bool) {
	owners = make([]owner, 0, len(entries)+1)
	for i := range entries {
		e := &entries[i]
		switch {
		case e.Operation != metav1.ManagedFieldsOperationApply && e.Operation != metav1.ManagedFieldsOperationUpdate, e.APIVersion == "", e.FieldsType != "FieldsV1":
			return nil, false, true
		case e.APIVersion != d.version, !utf8.ValidString(e.Manager), !utf8.ValidString(e.Subresource):
			return nil, true, false
		}
		fields, err := d.sets.get(e.FieldsV1, d.empty)
		switch {
		case errors.Is(err, errSchema):
			return nil, true, false
		case err != nil:
			return nil, false, true
		}
		o := owner{keyOf(e), e.APIVersion, e.Time, fields}
		if at := slices.IndexFunc(owners, func(other owner) bool { return other.key == o.key }); at >= 0 {
			owners[at] = o
			continue
		}
		owners = append(owners, o)
	}
	return owners, true, true
}

// changed are the entries after changes that a manager made: others lose what it has set or removed.
func (d *direct) changed(owners []owner, c *comparison, manager string) ([]owner, bool) {
	var set *fieldpath.Set // by this change
	switch {
	case c.modified == nil:
		set = c.added
	case c.added == nil:
		set = c.modified
	default:
		set = c.modified.Union(c.added)
	}
	for i := range owners {
		owners[i].lose(set, c.removed)
	}
	if set != nil {
		own := set.Difference(stripped)
		if !own.Empty() {
			owners = d.gain(owners, own, manager)
		}
	}
	owners = slices.DeleteFunc(owners, func(o owner) bool { return o.fields.set.Empty() })
	updaters := 0
	for _, o := range owners {
		if o.key.operation == string(metav1.ManagedFieldsOperationUpdate) {
			updaters++
		}
	}
	return owners, updaters <= mostUpdaters
}

// lose takes fields from an owner that somebody else has set or removed.
func (o *owner) lose(set, removed *fieldpath.Set) {
	fields := o.fields.set
	if set != nil {
		if taken := fields.Intersection(set); !taken.Empty() {
			fields = fields.Difference(taken)
		}
	}
	if removed != nil && !removed.Empty() {
		fields = fields.Difference(removed)
	}
	if fields != o.fields.set && !fields.Equals(o.fields.set) {
		o.fields = &fieldSet{set: fields}
	}
}

// gain gives fields to a manager, whose time is now.
func (d *direct) gain(owners []owner, fields *fieldpath.Set, manager string) []owner {
	new := d.owner(manager, &fieldSet{set: fields})
	at := slices.IndexFunc(owners, func(o owner) bool { return o.key == new.key })
	if at < 0 {
		return append(owners, new)
	}
	o := &owners[at]
	if all := fields.Union(o.fields.set); !all.Equals(o.fields.set) {
		o.fields = &fieldSet{set: all}
	}
	o.time = new.time
	return owners
}

// owner is the entry of a manager that updates now.
func (d *direct) owner(manager string, fields *fieldSet) owner {
	if manager == "" {
		manager = "unknown"
	}
	key := entryKey{manager, string(metav1.ManagedFieldsOperationUpdate), d.version, d.subresource}
	return owner{key, d.version, &metav1.Time{Time: time.Now().UTC()}, fields}
}

// encoded are entries as objects have them, in their order.
func encoded(owners []owner) []metav1.ManagedFieldsEntry {
	if len(owners) == 0 {
		return nil
	}
	entries := make([]metav1.ManagedFieldsEntry, 0, len(owners))
	for _, o := range owners {
		e := metav1.ManagedFieldsEntry{Manager: o.key.manager, Operation: metav1.ManagedFieldsOperationType(o.key.operation), APIVersion: o.version,
			Subresource: o.key.subresource, Time: o.time, FieldsType: "FieldsV1", FieldsV1: &metav1.FieldsV1{}}
		e.FieldsV1.SetRawBytes(o.fields.json())
		entries = append(entries, e)
	}
	slices.SortFunc(entries, func(a, b metav1.ManagedFieldsEntry) int {
		return cmp.Or(cmp.Compare(a.Operation, b.Operation), cmp.Compare(seconds(a.Time), seconds(b.Time)), cmp.Compare(a.Manager, b.Manager),
			cmp.Compare(a.APIVersion, b.APIVersion), cmp.Compare(a.Subresource, b.Subresource))
	})
	return entries
}

func seconds(t *metav1.Time) int64 {
	if t == nil {
		return 0
	}
	return t.Unix()
}

// fieldSet is a set of fields and its JSON, which is made when it is needed; or the JSON alone, of what is only to be written. It is
// not changed.
type fieldSet struct {
	set   *fieldpath.Set
	bytes []byte
}

func (f *fieldSet) json() []byte {
	if f.bytes != nil {
		return f.bytes
	}
	data, err := f.set.ToJSON()
	if err != nil {
		panic("managedfields: a set of fields without JSON: " + err.Error()) // path elements are names and scalars
	}
	return data
}

// sets remembers what JSON was read: most objects of a kind have the same fields set by the same managers.
type sets struct {
	mu    sync.RWMutex
	known map[string]*fieldSet
}

// What is remembered is bounded: so many sets for each kind, none longer than that.
const mostSets, longestSet = 128, 4 << 10

// get reads a set of fields, as the schema of empty has them now.
func (s *sets) get(fields *metav1.FieldsV1, empty *smd.TypedValue) (*fieldSet, error) {
	raw := []byte("{}")
	if fields != nil {
		raw = fields.GetRawBytes()
	}
	s.mu.RLock()
	known := s.known[string(raw)]
	s.mu.RUnlock()
	if known != nil {
		return known, nil
	}
	read, err := readSet(raw, empty)
	if err != nil || len(raw) > longestSet {
		return read, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.known == nil || len(s.known) >= mostSets {
		s.known = make(map[string]*fieldSet)
	}
	s.known[string(raw)] = read
	return read, nil
}

// errSchema is the error for a set that does not fit the schema.
var errSchema = errors.New("the set of fields does not fit the schema")

func readSet(raw []byte, empty *smd.TypedValue) (*fieldSet, error) {
	set := &fieldpath.Set{}
	if err := set.FromJSON(bytes.NewReader(raw)); err != nil {
		return nil, err
	}
	reconciled, err := smd.ReconcileFieldSetWithSchema(set, empty)
	if err != nil {
		return nil, errSchema
	}
	if reconciled != nil {
		set = reconciled
	}
	data, err := set.ToJSON()
	return &fieldSet{set, data}, err
}
