package custom

import (
	"slices"

	"github.com/skiff-k8s/skiff/apiserver/resource"
)

// addConversion lets the version be read from what is stored, and be stored.
// Objects stay stored as the version that was the storage version when they
// were written.
func (v *served) addConversion(stored *served) {
	r, k := v.row, v.kind
	r.Stored = stored.row
	if k.hook == nil && v == stored {
		return // what is stored says nothing else
	}
	r.ToStored = func(obj resource.Object) (resource.Object, error) { return one(k.convert(stored, obj)) }
	r.FromStored = func(obj resource.Object) (resource.Object, error) { return one(k.convert(v, obj)) }
	if k.hook != nil {
		r.Custom.FromStored = func(objects []resource.Object) ([]resource.Object, error) { return k.convert(v, objects...) }
	}
}

func one(objects []resource.Object, err error) (resource.Object, error) {
	if err != nil {
		return nil, err
	}
	return objects[0], nil
}

// convert makes new objects of a version, and leaves those alone that are of it
// already. All that a webhook is to convert it is asked for at once.
func (k *kind) convert(to *served, objects ...resource.Object) ([]resource.Object, error) {
	out := slices.Clone(objects)
	var asked []*object
	var at []int
	want := to.row.GroupVersion().String()
	for i, obj := range objects {
		u := obj.(*object)
		switch {
		case u.GetAPIVersion() == want:
		case k.hook == nil || empty(u):
			u = u.DeepCopy()
			u.SetAPIVersion(want)
			out[i] = u
		default:
			asked, at = append(asked, u), append(at, i)
		}
	}
	if len(asked) > 0 {
		converted, err := k.hook.convert(asked, to.row.GroupVersion())
		if err != nil {
			return nil, err
		}
		for n, u := range converted {
			out[at[n]] = u
		}
	}
	for i, obj := range out {
		if obj == objects[i] {
			continue
		}
		if _, err := to.prune(obj, true); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// empty is an object that nothing is known of: there is nothing to convert.
func empty(u *object) bool {
	_, hasKind := u.Object["kind"]
	_, hasVersion := u.Object["apiVersion"]
	return hasKind && hasVersion && len(u.Object) == 2
}

// of is the version whose objects u is one of, v unless u was stored as
// another.
func (v *served) of(u *object) *served {
	for _, other := range v.kind.versions {
		if other.row.GroupVersion().String() == u.GetAPIVersion() {
			return other
		}
	}
	return v
}
