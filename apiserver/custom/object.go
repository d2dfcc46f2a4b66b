package custom

import (
	"maps"

	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema/defaulting"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema/objectmeta"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema/pruning"

	"github.com/skiff-k8s/skiff/apiserver/resource"
)

// prune is resource.Custom.Prune: what decoding into a Go type does for other
// kinds.
func (v *served) prune(obj resource.Object, stored bool) ([]string, error) {
	u := obj.(*object)
	gvk := u.GroupVersionKind()
	s, err := v.of(u).structure()
	if err != nil {
		return nil, err
	}
	// Metadata is no matter of the schema. It is put back when the rest is done.
	meta, there, dropped, err := objectmeta.GetObjectMetaWithOptions(u.Object, objectmeta.ObjectMetaOptions{
		DropMalformedFields: stored, ReturnUnknownFieldPaths: !stored,
	})
	if err != nil {
		return nil, err
	}
	if !v.kind.keeps {
		dropped = append(dropped, pruning.PruneWithOptions(u.Object, s, true, schema.UnknownFieldPathOptions{TrackUnknownFieldPaths: !stored})...)
		defaulting.PruneNonNullableNullsWithoutDefaults(u.Object, s)
	}
	wrong, more := objectmeta.CoerceWithOptions(nil, u.Object, s, false, objectmeta.CoerceOptions{
		DropInvalidFields: stored, ReturnUnknownFieldPaths: !stored,
	})
	if wrong != nil {
		return nil, wrong
	}
	u.SetGroupVersionKind(gvk)
	if !there {
		return append(dropped, more...), nil
	}
	if stored && meta.Generation == 0 && meta.UID != "" { // one that is being created has none yet
		meta.Generation = 1 // there were none in the beginning
	}
	return append(dropped, more...), objectmeta.SetObjectMeta(u.Object, meta)
}

// fill sets the defaults of the schema.
func (v *served) fill(u *object) {
	if s, err := v.of(u).structure(); err == nil { // prune told of the error
		defaulting.Default(u.Object, s)
	}
}

// prepare leaves the status to its own path.
func (v *served) prepare(obj, old *object) {
	if !v.status {
		return
	}
	delete(obj.Object, "status")
	if old == nil {
		return
	}
	if status, there := old.Object["status"]; there {
		obj.Object["status"] = status
	}
}

// prepareStatus leaves everything but the status as it was.
func prepareStatus(obj, old *object) {
	status, there := obj.Object["status"]
	fields := obj.GetManagedFields()
	old.DeepCopyInto(obj)
	obj.SetManagedFields(fields)
	delete(obj.Object, "status")
	if there {
		obj.Object["status"] = status
	}
}

// seen is a stored object as the version has it, for those who only read it.
func (v *served) seen(u *object) (*object, error) {
	if u == nil || u.GetAPIVersion() == v.row.GroupVersion().String() {
		return u, nil
	}
	if v.kind.hook != nil {
		converted, err := v.row.FromStored(u)
		if err != nil {
			return nil, err
		}
		return converted.(*object), nil
	}
	// Its own schema is to judge it whole.
	view := &object{Object: make(map[string]any, len(u.Object))}
	maps.Copy(view.Object, u.Object)
	view.SetAPIVersion(v.row.GroupVersion().String())
	return view, nil
}
