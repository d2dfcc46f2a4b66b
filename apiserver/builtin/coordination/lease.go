// Package coordination holds the kinds of coordination.k8s.io.
package coordination

import (
	coordinationv1 "k8s.io/api/coordination/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/utils/ptr"

	"github.com/skiff-k8s/skiff/apiserver/builtin/check"
	"github.com/skiff-k8s/skiff/apiserver/builtin/table"
	"github.com/skiff-k8s/skiff/apiserver/resource"
)

// Resources are the rows of the group in the order of discovery.
func Resources() []*resource.Resource { return []*resource.Resource{leases()} }

func leases() *resource.Resource {
	return resource.Define[coordinationv1.LeaseList](resource.Definition[coordinationv1.Lease]{
		Group: "coordination.k8s.io", Version: "v1", Kind: "Lease", Plural: "leases",
		Validate:       validateLease,
		CreateOnUpdate: true,
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
	strategy, preferred := l.Spec.Strategy, l.Spec.PreferredHolder
	if strategy != nil {
		errs = append(errs, validateStrategy(*strategy, path.Child("strategy"))...)
	}
	if preferred != nil && *preferred != "" && (strategy == nil || *strategy == "") {
		errs = append(errs, field.Forbidden(path.Child("preferredHolder"), "may only be specified when `strategy` is defined"))
	}
	return errs
}

func validateStrategy(s coordinationv1.CoordinatedLeaseStrategy, path *field.Path) field.ErrorList {
	if s == coordinationv1.OldestEmulationVersion {
		return nil
	}
	return check.Qualified(string(s), path)
}
