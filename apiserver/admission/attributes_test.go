package admission

import (
	"context"
	"errors"
	"testing"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"github.com/skiff-k8s/skiff/apiserver/resource"
)

// away is a cluster whose storage gives no answer.
type away struct{ resource.Cluster }

func (away) Resource(_, _ string) *resource.Resource { return &resource.Resource{} }

func (away) Get(context.Context, *resource.Resource, string, string) (resource.Object, error) {
	return nil, errors.New("the disk is away")
}

func (away) List(context.Context, *resource.Resource, string) ([]resource.Object, error) {
	return nil, errors.New("the disk is away")
}

// That a plugin cannot find out what it needs is no refusal: a client may try
// again.
func TestUnanswered(t *testing.T) {
	if _, err := get[*corev1.Namespace](t.Context(), away{}, "", "namespaces", "", "a"); !apierrors.IsInternalError(err) {
		t.Errorf("get: %v, want an internal error", err)
	}
	if _, err := list[*corev1.Pod](t.Context(), away{}, "", "pods", "a"); !apierrors.IsInternalError(err) {
		t.Errorf("list: %v, want an internal error", err)
	}
}
