// Package managedfields keeps record of which client set which field
// (metadata.managedFields) and merges applied configurations: server-side
// apply (KEP-555). The algorithm is apimachinery's; here it is connected to
// resources.
package managedfields

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"unicode"
	"unicode/utf8"

	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	upstream "k8s.io/apimachinery/pkg/util/managedfields"
	"sigs.k8s.io/structured-merge-diff/v6/fieldpath"

	"github.com/skiff-k8s/skiff/apiserver/codec"
	"github.com/skiff-k8s/skiff/apiserver/heavy"
	"github.com/skiff-k8s/skiff/apiserver/resource"
)

// Managers makes and keeps a manager per resource and subresource. The zero
// value serves built-in kinds.
type Managers struct {
	// Versions finds the resource of a built-in kind in another version of its group;
	// nil, or a nil result, means there is none.
	Versions func(gv schema.GroupVersion, plural string) *resource.Resource

	// Heavy runs what takes long for large objects.
	Heavy heavy.Runner

	managers sync.Map // managerKey → func() (*fieldManager, error)
}

type managerKey struct {
	resource    *resource.Resource
	subresource string
}

// Update records in obj what manager changed from live to obj. live is the
// empty object on create. Both are of the stored version; live is not changed.
func (m *Managers) Update(ctx context.Context, r *resource.Resource, subresource string, live, obj resource.Object, manager string) error {
	fields, err := m.manager(r, subresource)
	if err != nil {
		return err
	}
	if fields.direct.update(live, obj, manager) {
		return nil
	}
	return m.Heavy.Do(ctx, max(heavy.Fields(live), heavy.Fields(obj)), func() error {
		fields.library.UpdateNoErrors(codec.As(live, r.Stored.GVK()), obj, manager)
		return nil
	})
}

// Apply merges the applied configuration patch, of the version of r, into live
// and returns the new object, of the stored version. Conflicts with other
// managers are a 409 error with a cause per field, unless force is set.
func (m *Managers) Apply(ctx context.Context, r *resource.Resource, subresource string, live resource.Object, patch *unstructured.Unstructured, manager string, force bool) (resource.Object, error) {
	fields, err := m.manager(r, subresource)
	if err != nil {
		return nil, err
	}
	var result runtime.Object
	err = m.Heavy.Do(ctx, max(heavy.Fields(live), heavy.Fields(patch.Object)), func() (err error) {
		result, err = fields.library.Apply(codec.As(live.DeepCopyObject(), r.Stored.GVK()), patch, manager, force)
		return err
	})
	if err != nil {
		return nil, err
	}
	obj, ok := result.(resource.Object)
	if !ok {
		return nil, fmt.Errorf("apply %s: result is %T", r.Plural, result)
	}
	return obj, nil
}

// Scale translates between the managed fields of an object, of version r, and
// those of its Scale, in which spec.replicas is all there is.
func Scale(r *resource.Resource, s *resource.Scale[resource.Object], object []metav1.ManagedFieldsEntry) *upstream.ScaleHandler {
	path := fieldpath.MakePathOrDie("spec", "replicas")
	if s.Path != nil {
		path = nil
		for _, name := range s.Path {
			path = append(path, fieldpath.FieldNameElement(name))
		}
	}
	return upstream.NewScaleHandler(object, r.GroupVersion(), upstream.ResourcePathMappings{r.GroupVersion().String(): path})
}

// Forget drops what is kept for r, when it is served no longer.
func (m *Managers) Forget(r *resource.Resource) {
	m.managers.Range(func(key, _ any) bool {
		if key.(managerKey).resource == r {
			m.managers.Delete(key)
		}
		return true
	})
}

// fieldManager keeps the managed fields of one resource or subresource.
type fieldManager struct {
	library *upstream.FieldManager
	direct  *direct // nil: all is the library's
}

func (m *Managers) manager(r *resource.Resource, subresource string) (*fieldManager, error) {
	key := managerKey{r, subresource}
	if make, ok := m.managers.Load(key); ok {
		return make.(func() (*fieldManager, error))()
	}
	make, _ := m.managers.LoadOrStore(key, sync.OnceValues(func() (*fieldManager, error) {
		library, err := m.new(r, subresource)
		if err != nil {
			return nil, err
		}
		return &fieldManager{library, newDirect(r, subresource)}, nil
	}))
	return make.(func() (*fieldManager, error))()
}

func (m *Managers) new(r *resource.Resource, subresource string) (*upstream.FieldManager, error) {
	o := objects{managers: m, resource: r}
	reset := fieldpath.NewExcludeFilterSetMap(resetFields(r, subresource))
	if r.Custom != nil {
		types, err := r.Custom.Types()
		if err != nil {
			return nil, fmt.Errorf("types of %s: %w", r.GVR(), err)
		}
		return upstream.NewDefaultCRDFieldManager(types, o, o, o, r.GVK(), r.Stored.GroupVersion(), subresource, reset)
	}
	return upstream.NewDefaultFieldManager(typesOf(codec.As(r.New(), r.GVK())), o, o, o, r.GVK(), r.Stored.GroupVersion(), subresource, reset)
}

// resetFields are the paths of resetPaths, by version.
func resetFields(r *resource.Resource, subresource string) map[fieldpath.APIVersion]*fieldpath.Set {
	return map[fieldpath.APIVersion]*fieldpath.Set{fieldpath.APIVersion(r.GroupVersion().String()): fieldpath.NewSet(resetPaths(r, subresource)...)}
}

// resetPaths are the fields that nobody owns by a path, because what is sent there is put
// back: unless the row says otherwise, status on the object itself and spec on
// its status.
func resetPaths(r *resource.Resource, subresource string) []fieldpath.Path {
	reset := r.Reset
	status := r.Sub("status")
	if subresource == "" && reset == nil && status != nil && status.View {
		reset = []string{"status"}
	}
	if sub := r.Sub(subresource); sub != nil {
		reset = sub.Reset
		if sub == status && reset == nil {
			reset = []string{"spec"}
		}
	}
	var paths []fieldpath.Path
	for _, path := range reset {
		var parts []any
		for name := range strings.SplitSeq(path, ".") {
			parts = append(parts, name)
		}
		paths = append(paths, fieldpath.MakePathOrDie(parts...))
	}
	return paths
}

// objects converts, defaults and makes objects of one kind for the manager.
type objects struct {
	managers *Managers
	resource *resource.Resource
}

var (
	_ runtime.ObjectConvertor = objects{}
	_ runtime.ObjectDefaulter = objects{}
	_ runtime.ObjectCreater   = objects{}
)

// ConvertToVersion returns obj in a version. Objects the manager merged come
// as unstructured data, also of built-in kinds.
func (o objects) ConvertToVersion(obj runtime.Object, target runtime.GroupVersioner) (runtime.Object, error) {
	kind, ok := target.KindForGroupVersionKinds([]schema.GroupVersionKind{obj.GetObjectKind().GroupVersionKind(), o.resource.GVK(), o.resource.Stored.GVK()})
	if !ok {
		return nil, runtime.NewNotRegisteredErrForTarget("builtin", nil, target)
	}
	from, to := o.version(obj.GetObjectKind().GroupVersionKind()), o.version(kind)
	if from == nil || to == nil {
		return nil, runtime.NewNotRegisteredErrForKind("builtin", kind)
	}
	in, err := typed(obj, from)
	if err != nil {
		return nil, err
	}
	if from != to {
		if in, err = from.ToStored(in); err != nil {
			return nil, err
		}
		if in, err = to.FromStored(in); err != nil {
			return nil, err
		}
	}
	return codec.As(in, to.GVK()), nil
}

// version is the resource of a kind, one version of the manager's.
func (o objects) version(kind schema.GroupVersionKind) *resource.Resource {
	switch r := o.resource; {
	case kind == r.GVK():
		return r
	case kind == r.Stored.GVK():
		return r.Stored
	case r.Custom != nil:
		if kind.Group != r.Group || kind.Kind != r.Kind {
			return nil
		}
		return r.Custom.Version(kind.Version)
	case o.managers.Versions == nil:
		return nil
	default:
		other := o.managers.Versions(kind.GroupVersion(), r.Plural)
		if other == nil || other.Stored != r.Stored {
			return nil
		}
		return other
	}
}

// typed makes unstructured data an object of the Go type of r.
func typed(obj runtime.Object, r *resource.Resource) (resource.Object, error) {
	u, isUnstructured := obj.(*unstructured.Unstructured)
	if !isUnstructured || r.Custom != nil {
		typed, ok := obj.(resource.Object)
		if !ok {
			return nil, fmt.Errorf("convert %T: it has no metadata", obj)
		}
		return typed, nil
	}
	into := r.New()
	if err := runtime.DefaultUnstructuredConverter.FromUnstructured(u.Object, into); err != nil {
		return nil, fmt.Errorf("convert %s %s/%s: %w", r.Plural, u.GetNamespace(), u.GetName(), err)
	}
	return into, nil
}

// Convert is not used by the manager.
func (o objects) Convert(in, out, context any) error {
	return fmt.Errorf("convert %T to %T: only conversion to a version is supported", in, out)
}

// ConvertFieldLabel is not used by the manager.
func (o objects) ConvertFieldLabel(kind schema.GroupVersionKind, label, value string) (string, string, error) {
	return label, value, nil
}

// Default fills in defaults.
func (o objects) Default(obj runtime.Object) {
	if typed, ok := obj.(resource.Object); ok {
		if r := o.version(obj.GetObjectKind().GroupVersionKind()); r != nil {
			r.Default(typed)
		}
	}
}

// New makes an empty object.
func (o objects) New(kind schema.GroupVersionKind) (runtime.Object, error) {
	r := o.version(kind)
	if r == nil {
		return nil, runtime.NewNotRegisteredErrForKind("builtin", kind)
	}
	obj := r.New()
	obj.GetObjectKind().SetGroupVersionKind(kind)
	return obj, nil
}

// Name is the manager of a write: the one it names, else the program by its
// user agent, of which the part before the first slash counts.
func Name(fieldManager, userAgent string) string {
	if fieldManager != "" {
		return fieldManager
	}
	const most = 128 // as validation of managers has it
	name, _, _ := strings.Cut(userAgent, "/")
	var b strings.Builder
	for _, r := range name {
		if !unicode.IsPrint(r) {
			continue
		}
		if b.Len()+utf8.RuneLen(r) > most {
			break
		}
		b.WriteRune(r)
	}
	return b.String()
}

// KeepTimes puts the managed fields of old into obj when nothing has changed
// from one to the other but the times in them, so that a write that changes
// nothing stores nothing.
func KeepTimes(obj, old resource.Object) {
	fields, oldFields := obj.GetManagedFields(), old.GetManagedFields()
	if !equalButTimes(fields, oldFields) {
		return
	}
	version := obj.GetResourceVersion()
	obj.SetManagedFields(oldFields)
	obj.SetResourceVersion(old.GetResourceVersion())
	if !equality.Semantic.DeepEqual(codec.As(obj, schema.GroupVersionKind{}), codec.As(old, schema.GroupVersionKind{})) {
		obj.SetManagedFields(fields)
	}
	obj.SetResourceVersion(version)
}

func equalButTimes(a, b []metav1.ManagedFieldsEntry) bool {
	return slices.EqualFunc(a, b, func(x, y metav1.ManagedFieldsEntry) bool {
		return x.Manager == y.Manager && x.Operation == y.Operation && x.APIVersion == y.APIVersion && x.Subresource == y.Subresource &&
			x.FieldsType == y.FieldsType && (x.FieldsV1 == nil) == (y.FieldsV1 == nil) && (x.FieldsV1 == nil || x.FieldsV1.Equal(*y.FieldsV1))
	})
}
