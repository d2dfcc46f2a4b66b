package admission

import (
	"context"
	"errors"
	"fmt"
	"net/http"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/api/validate/content"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/skiff-k8s/skiff/apiserver/resource"
)

// The verbs of Attributes.
const (
	create  = "create"
	update  = "update"
	remove  = "delete"
	connect = "connect"
)

// is reports whether a concerns a kind itself, not a subresource of it.
func (a *Attributes) is(group, plural string) bool { return a.isSub(group, plural, "") }

func (a *Attributes) isSub(group, plural, sub string) bool {
	return a.Resource.Group == group && a.Resource.Plural == plural && a.Subresource == sub
}

// forbid is the refusal of a with a reason.
func (a *Attributes) forbid(format string, args ...any) error {
	return a.Forbidden(fmt.Errorf(format, args...))
}

// Forbidden is the refusal of a, 403 Forbidden. Its status may be changed.
func (a *Attributes) Forbidden(reason error) *apierrors.StatusError {
	return apierrors.NewForbidden(a.Resource.GR(), a.shownName(), reason)
}

// RequestName is the name in the request; it may be empty.
func (a *Attributes) RequestName() string {
	if a.Collection {
		return ""
	}
	return a.Name
}

// shownName is how errors name an object that may have no name yet.
func (a *Attributes) shownName() string {
	if name := a.RequestName(); name != "" {
		return name
	}
	if a.New == nil {
		return "Unknown"
	}
	obj, err := meta.Accessor(a.New)
	switch {
	case err != nil:
		return "Unknown/errorGettingName"
	case obj.GetName() != "":
		return obj.GetName()
	case obj.GetGenerateName() != "":
		return obj.GetGenerateName()
	}
	return "Unknown"
}

// plainError is an error without a reason, 500, which kube-apiserver makes of an error of a plugin that is none of the API.
func plainError(err error) error {
	return &apierrors.StatusError{ErrStatus: metav1.Status{Status: metav1.StatusFailure, Code: http.StatusInternalServerError, Message: err.Error()}}
}

func (a *Attributes) warn(format string, args ...any) {
	if a.Warn != nil {
		a.Warn(fmt.Sprintf(format, args...))
	}
}

func (a *Attributes) audit(key, value string) {
	if a.Audit != nil {
		a.Audit(key, value)
	}
}

// newPod is the pod that a creates, nil if a does not create a pod.
func (a *Attributes) newPod() *corev1.Pod {
	if a.Verb != create || !a.is("", "pods") {
		return nil
	}
	pod, _ := a.New.(*corev1.Pod)
	return pod
}

func isMirror(pod *corev1.Pod) bool {
	_, mirror := pod.Annotations[corev1.MirrorPodAnnotationKey]
	return mirror
}

// get reads one object as its type. T is a pointer type. The name may come out of
// another object: one that no object can have is not found, and is no fault of
// the path that was asked for.
func get[T resource.Object](ctx context.Context, c resource.Cluster, group, plural, namespace, name string) (T, error) {
	var zero T
	kind := c.Resource(group, plural)
	if kind == nil || len(content.IsPathSegmentName(name)) > 0 {
		return zero, apierrors.NewNotFound(schema.GroupResource{Group: group, Resource: plural}, name)
	}
	obj, err := c.Get(ctx, kind, namespace, name)
	if err != nil {
		return zero, unasked(err)
	}
	typed, ok := obj.(T)
	if !ok {
		return zero, apierrors.NewInternalError(fmt.Errorf("%s/%s is a %T", plural, name, obj))
	}
	return typed, nil
}

// unasked is the error of a question that had no answer. It is the server's
// failure, not a refusal of what was asked for.
func unasked(err error) error {
	if errors.As(err, new(apierrors.APIStatus)) || errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return err
	}
	return apierrors.NewInternalError(err)
}

// list reads all objects of a kind in a namespace, none if the kind is not
// served.
func list[T resource.Object](ctx context.Context, c resource.Cluster, group, plural, namespace string) ([]T, error) {
	kind := c.Resource(group, plural)
	if kind == nil {
		return nil, nil
	}
	objects, err := c.List(ctx, kind, namespace)
	if err != nil {
		return nil, unasked(err)
	}
	typed := make([]T, 0, len(objects))
	for _, obj := range objects {
		if t, ok := obj.(T); ok {
			typed = append(typed, t)
		}
	}
	return typed, nil
}
