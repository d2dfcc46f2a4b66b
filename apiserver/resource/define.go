package resource

import (
	"context"
	"weak"

	"k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// Define erases the type of d. L is the list type of the kind. It must be
// given explicitly: Define[corev1.PodList](Definition[corev1.Pod]{…}).
func Define[L any, T any, P interface {
	*T
	Object
}, PL interface {
	*L
	runtime.Object
}](d Definition[T]) *Resource {
	typed := func(obj Object) *T {
		p, _ := obj.(P)
		return (*T)(p)
	}
	r := &Resource{
		Group: d.Group, Version: d.Version, Kind: d.Kind, ListKind: d.ListKind, Plural: d.Plural, Singular: d.Singular,
		ShortNames: d.ShortNames, Categories: d.Categories,
		ClusterScoped: d.ClusterScoped,
		Prefix:        d.Prefix,
		Older:         d.Older,
		Upgrade:       func(string, []byte, Object) (bool, error) { return false, nil },
		Verbs:         d.Verbs,
		Deprecated:    d.Deprecated,
		Yields:        d.Yields,

		New:     func() Object { return P(new(T)) },
		Weak:    Weakly[T, P],
		NewList: func() runtime.Object { return PL(new(L)) },
		Default: erase1(d.Default, typed),
		Reserve: func(context.Context, Object, Object, bool) (func(bool), error) { return func(bool) {}, nil },
		Prepare: erase2(d.Prepare, typed),
		Reset:   d.Reset,

		Permit:   erasePermit(d.Permit, typed),
		Validate: eraseErrors(d.Validate, typed),
		Warn:     eraseWarn(d.Warn, typed),

		Name:           d.Name,
		Meta:           d.Meta,
		Generation:     func(_, _ Object) bool { return false },
		HasGeneration:  d.Generation != nil,
		Fields:         make(map[string]func(Object) string),
		IndexBy:        d.IndexBy,
		Packed:         d.Packed,
		CreateOnUpdate: d.CreateOnUpdate,
		NeedsVersion:   d.NeedsVersion,
		TTL:            func(Object) uint64 { return 0 },

		Grace:           func(Object, *metav1.DeleteOptions) int64 { return 0 },
		Graceful:        d.Grace != nil,
		Protobuf:        hasProtobuf(new(T)),
		Terminate:       erase1(d.Terminate, typed),
		Held:            func(Object) bool { return false },
		Finalizer:       d.Finalizer,
		AnswersDeleted:  d.AnswersDeleted,
		OrphanByDefault: d.OrphanByDefault,
		OrphanWarning:   d.OrphanWarning,

		ToStored:   func(obj Object) (Object, error) { return obj, nil },
		FromStored: func(obj Object) (Object, error) { return obj, nil },
	}
	r.Stored = r
	r.setNames()
	if d.Reserve != nil {
		r.Reserve = func(ctx context.Context, obj, old Object, dryRun bool) (func(bool), error) {
			return d.Reserve(ctx, typed(obj), typed(old), dryRun)
		}
	}
	if d.Read != nil {
		r.Read = erase1(d.Read, typed)
	}
	if d.Upgrade != nil {
		r.Upgrade = func(version string, stored []byte, obj Object) (bool, error) {
			return d.Upgrade(version, stored, typed(obj))
		}
	}
	if d.Name == nil {
		r.Name = validation.NameIsDNSSubdomain
	}
	if d.Generation != nil {
		r.Generation = func(obj, old Object) bool { return d.Generation(typed(obj), typed(old)) }
	}
	for name, value := range d.Fields {
		r.Fields[name] = func(obj Object) string { return value(typed(obj)) }
	}
	for _, c := range d.Columns {
		r.Columns = append(r.Columns, Column[Object]{c.Name, c.Type, c.Format, c.Description, c.Priority,
			func(obj Object) any { return c.Value(typed(obj)) }})
	}
	for _, s := range d.Subresources {
		r.Subresources = append(r.Subresources, eraseSub(s, typed))
	}
	if d.TTL != nil {
		r.TTL = func(obj Object) uint64 { return d.TTL(typed(obj)) }
	}
	if d.Grace != nil {
		r.Grace = func(obj Object, o *metav1.DeleteOptions) int64 { return d.Grace(typed(obj), o) }
	}
	if d.Review != nil {
		r.Review = func(ctx context.Context, c Call, obj Object) (Object, error) {
			answer, err := d.Review(ctx, c, typed(obj))
			return P(answer), err
		}
	}
	if d.Live != nil {
		r.Live = func(ctx context.Context, namespace, name string) ([]Object, error) {
			live, err := d.Live(ctx, namespace, name)
			if err != nil {
				return nil, err
			}
			list := make([]Object, len(live))
			for i, obj := range live {
				list[i] = P(obj)
			}
			return list, nil
		}
	}
	if d.Held != nil {
		r.Held = func(obj Object) bool { return d.Held(typed(obj)) }
	}
	return r
}

// Weakly is Resource.Weak of a type.
func Weakly[T any, P interface {
	*T
	Object
}](obj Object) func() Object {
	held := weak.Make((*T)(obj.(P)))
	return func() Object {
		if obj := held.Value(); obj != nil {
			return P(obj)
		}
		return nil
	}
}

// Alias makes r a second version of stored: objects of r are converted by up
// before they are prepared, validated and stored, and by down when they are
// read. up and down must return new objects. Defaults, fields and columns are
// those of r; Prepare, Validate and the rest are those of stored.
func Alias[T, S any, P interface {
	*T
	Object
}, PS interface {
	*S
	Object
}](r, stored *Resource, up func(*T) *S, down func(*S) *T) *Resource {
	r.Stored = stored
	r.ToStored = func(obj Object) (Object, error) { return PS(up((*T)(obj.(P)))), nil }
	r.FromStored = func(obj Object) (Object, error) { return P(down((*S)(obj.(PS)))), nil }
	r.Prepare, r.Reset, r.Permit, r.Validate, r.Warn = stored.Prepare, stored.Reset, stored.Permit, stored.Validate, stored.Warn
	r.Reserve, r.Generation, r.HasGeneration = stored.Reserve, stored.Generation, stored.HasGeneration
	return r
}

func eraseSub[T any](s Subresource[T], typed func(Object) *T) Sub {
	sub := Sub{
		Name: s.Name, Kind: s.Kind, Verbs: s.Verbs,
		View: s.View, Prepare: erase2(s.Prepare, typed), Reset: s.Reset,
		Permit: erasePermit(s.Permit, typed), Validate: eraseErrors(s.Validate, typed), Warn: eraseWarn(s.Warn, typed),
		Create: s.Create, NewBody: s.NewBody, Convert: s.Convert, Connect: s.Connect,
	}
	if s.Scale != nil {
		sub.Scale = &Scale[Object]{
			Replicas:    func(obj Object) *int32 { return s.Scale.Replicas(typed(obj)) },
			Status:      func(obj Object) int32 { return s.Scale.Status(typed(obj)) },
			Selector:    func(obj Object) string { return s.Scale.Selector(typed(obj)) },
			SetReplicas: func(obj Object, n int32) { s.Scale.SetReplicas(typed(obj), n) },
			Path:        s.Scale.Path,
		}
	}
	if sub.Verbs != nil {
		return sub
	}
	switch {
	case s.Create != nil:
		sub.Verbs = []string{"create"}
	case s.View, s.Scale != nil:
		sub.Verbs = []string{"get", "patch", "update"}
	}
	return sub
}

func erase1[T any](f func(*T), typed func(Object) *T) func(Object) {
	if f == nil {
		return func(Object) {}
	}
	return func(obj Object) { f(typed(obj)) }
}

func erase2[T any](f func(_, _ *T), typed func(Object) *T) func(_, _ Object) {
	if f == nil {
		return func(_, _ Object) {}
	}
	return func(obj, old Object) { f(typed(obj), typed(old)) }
}

func erasePermit[T any](f func(context.Context, Cluster, *T, *T) field.ErrorList, typed func(Object) *T) func(context.Context, Cluster, Object, Object) field.ErrorList {
	if f == nil {
		return func(context.Context, Cluster, Object, Object) field.ErrorList { return nil }
	}
	return func(ctx context.Context, cluster Cluster, obj, old Object) field.ErrorList {
		return f(ctx, cluster, typed(obj), typed(old))
	}
}

func eraseErrors[T any](f func(_, _ *T) field.ErrorList, typed func(Object) *T) func(_ context.Context, _, _ Object) field.ErrorList {
	if f == nil {
		return func(context.Context, Object, Object) field.ErrorList { return nil }
	}
	return func(_ context.Context, obj, old Object) field.ErrorList { return f(typed(obj), typed(old)) }
}

func eraseWarn[T any](f func(_, _ *T) []string, typed func(Object) *T) func(_, _ Object) []string {
	if f == nil {
		return func(_, _ Object) []string { return nil }
	}
	return func(obj, old Object) []string { return f(typed(obj), typed(old)) }
}

// hasProtobuf reports whether objects of the type of obj have a protobuf form.
func hasProtobuf(obj any) bool {
	_, ok := obj.(interface{ Marshal() ([]byte, error) })
	return ok
}
