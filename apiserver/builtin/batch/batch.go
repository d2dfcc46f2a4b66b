// Package batch describes the kinds of the group batch: Jobs, which run pods
// to completion, and CronJobs, which start Jobs.
package batch

import (
	"k8s.io/apimachinery/pkg/api/equality"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/skiff-k8s/skiff/apiserver/resource"
)

// Resources are the kinds of batch/v1 in the order of discovery.
func Resources() []*resource.Resource {
	return []*resource.Resource{cronJobs(), jobs()}
}

var (
	specPath   = field.NewPath("spec")
	statusPath = field.NewPath("status")
)

// changed reports whether two values differ as the API compares them.
func changed[T any](a, b T) bool { return !equality.Semantic.DeepEqual(a, b) }

// notNegative demands a number of at least 0 if there is one.
func notNegative[N int32 | int64](n *N, path *field.Path) field.ErrorList {
	if n == nil {
		return nil
	}
	return apivalidation.ValidateNonnegativeField(int64(*n), path)
}

// deref is the value of an optional field, the zero value if it is absent.
func deref[T any](p *T) T {
	if p == nil {
		var zero T
		return zero
	}
	return *p
}

// same reports whether two optional values are both absent or equal.
func same[T comparable](a, b *T) bool {
	return a == b || a != nil && b != nil && *a == *b
}
