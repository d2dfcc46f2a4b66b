// Package coordination holds the kinds of coordination.k8s.io.
package coordination

import (
	coordinationv1 "k8s.io/api/coordination/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/utils/ptr"

	"github.com/skiff-k8s/skiff/apiserver/builtin/table"
	"github.com/skiff-k8s/skiff/apiserver/resource"
)

// Resources are the rows of the group in the order of discovery.
func Resources() []*resource.Resource { return []*resource.Resource{leases()} }

func leases() *resource.Resource {
	return resource.Define[coordinationv1.LeaseList](resource.Definition[coordinationv1.Lease]{
		Group: "coordination.k8s.io", Version: "v1", Kind: "Lease", Plural: "leases", Older: []string{"v1beta1"},
		// Coordinated leader election is not served.
		Prepare: func(l, _ *coordinationv1.Lease) {
			l.Spec.Strategy, l.Spec.PreferredHolder = nil, nil
		},
		Validate:       validateLease,
		Meta:           resource.MetaAnyFinalizer,
		CreateOnUpdate: true,
		NeedsVersion:   true,
		Columns: []resource.Column[*coordinationv1.Lease]{
			resource.NameColumn[*coordinationv1.Lease](),
			table.Text("Holder", table.Doc(coordinationv1.LeaseSpec{}, "holderIdentity"), func(l *coordinationv1.Lease) string {
				return ptr.Deref(l.Spec.HolderIdentity, "")
			}),
			resource.AgeColumn[*coordinationv1.Lease](),
		},
	})
}

func validateLease(l, _ *coordinationv1.Lease) field.ErrorList {
	var errs field.ErrorList
	path := field.NewPath("spec")
	if s := l.Spec.LeaseDurationSeconds; s != nil && *s <= 0 {
		errs = append(errs, field.Invalid(path.Child("leaseDurationSeconds"), *s, "must be greater than 0"))
	}
	if n := l.Spec.LeaseTransitions; n != nil && *n < 0 {
		errs = append(errs, field.Invalid(path.Child("leaseTransitions"), *n, "must be greater than or equal to 0"))
	}
	return errs
}
