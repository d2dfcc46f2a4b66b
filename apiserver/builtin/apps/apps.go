// Package apps describes the kinds of the group apps: the workloads that keep
// pods running, and the revisions two of them keep.
package apps

import (
	"k8s.io/apimachinery/pkg/api/equality"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/skiff-k8s/skiff/apiserver/resource"
)

// Resources are the kinds of apps/v1 in the order of discovery.
func Resources() []*resource.Resource {
	return []*resource.Resource{
		controllerRevisions(),
		daemonSets(),
		deployments(),
		replicaSets(),
		statefulSets(),
	}
}

var (
	specPath   = field.NewPath("spec")
	statusPath = field.NewPath("status")
	tmplPath   = field.NewPath("spec", "template")
)

// changed reports whether two values differ as the API compares them: an empty
// list is no different from an absent one.
func changed[T any](a, b T) bool { return !equality.Semantic.DeepEqual(a, b) }

// count is a number of a status with the field it is in.
type count struct {
	field string
	value int64
}

func notNegative(path *field.Path, counts ...count) field.ErrorList {
	var errs field.ErrorList
	for _, c := range counts {
		errs = append(errs, apivalidation.ValidateNonnegativeField(c.value, path.Child(c.field))...)
	}
	return errs
}

// notAbove lists the counts greater than limit.
func notAbove(path *field.Path, limit int32, limitName string, counts ...count) field.ErrorList {
	var errs field.ErrorList
	for _, c := range counts {
		if c.value > int64(limit) {
			errs = append(errs, field.Invalid(path.Child(c.field), int32(c.value), "cannot be greater than "+limitName))
		}
	}
	return errs
}

// notDecremented holds a collision count to its promise to only grow.
func notDecremented(now, before *int32) field.ErrorList {
	if before == nil || now != nil && *now >= *before {
		return nil
	}
	var value int32
	if now != nil {
		value = *now
	}
	return field.ErrorList{field.Invalid(statusPath.Child("collisionCount"), value, "cannot be decremented")}
}

func selectorString(s *metav1.LabelSelector) string {
	selector, err := metav1.LabelSelectorAsSelector(s)
	if err != nil {
		return ""
	}
	return selector.String()
}

// deref is the value of an optional count, 0 if it is absent.
func deref(n *int32) int64 {
	if n == nil {
		return 0
	}
	return int64(*n)
}
