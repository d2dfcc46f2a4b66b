package policy

import (
	"context"
	"errors"
	"fmt"
	"slices"

	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/utils/ptr"

	"github.com/skiff-k8s/skiff/apiserver/admission"
	"github.com/skiff-k8s/skiff/apiserver/admission/matching"
	"github.com/skiff-k8s/skiff/apiserver/codec"
	"github.com/skiff-k8s/skiff/apiserver/resource"
)

// param is an object that a policy is evaluated with. The zero value is none, which expressions see as null.
type param struct {
	namespace, name string
	object          map[string]any
}

// paramRow finds the row of the kind of d's params; nil if d has none.
func (p *Policies) paramRow(d *definition) (*resource.Resource, error) {
	if d.params == nil {
		return nil, nil
	}
	gv, err := schema.ParseGroupVersion(d.params.APIVersion)
	if err != nil {
		return nil, fmt.Errorf("failed to parse paramKind APIVersion: %w", err)
	}
	gvk := gv.WithKind(d.params.Kind)
	row := p.config.Kind(gvk)
	if row == nil {
		return nil, fmt.Errorf("failed to find resource referenced by paramKind: '%v'", gvk)
	}
	return row, nil
}

// params are what a policy is to be evaluated with for one of its bindings: once without any, or with each object that
// the binding names. row is that of their kind.
func params(ctx context.Context, a *admission.Attributes, row *resource.Resource, b *binding) ([]param, error) {
	if row == nil || b.params == nil {
		return []param{{}}, nil
	}
	if !slices.Contains(row.Verbs, "watch") { // kube-apiserver waits for such in vain
		kind := &admissionregistrationv1.ParamKind{APIVersion: row.GroupVersion().String(), Kind: row.Kind}
		return nil, fmt.Errorf("paramKind kind `%v` not yet synced to use for admission", kind)
	}
	namespace, err := paramNamespace(a, row, b.params)
	if err != nil {
		return nil, err
	}
	objects, err := paramObjects(ctx, a.Cluster, row, namespace, b.params)
	if err != nil {
		return nil, err
	}
	if len(objects) == 0 && ptr.Deref(b.params.ParameterNotFoundAction, admissionregistrationv1.AllowAction) == admissionregistrationv1.DenyAction {
		return nil, errors.New("no params found for policy binding with `Deny` parameterNotFoundAction")
	}
	found := make([]param, len(objects))
	for i, obj := range objects {
		found[i] = param{namespace: obj.GetNamespace(), name: obj.GetName()}
		if found[i].object, err = seen(row, obj); err != nil {
			return nil, err
		}
	}
	return found, nil
}

// paramNamespace is where the params are: where the binding says, else where the object is.
func paramNamespace(a *admission.Attributes, row *resource.Resource, ref *admissionregistrationv1.ParamRef) (string, error) {
	switch {
	case row.ClusterScoped && ref.Namespace != "":
		return "", errors.New("paramRef.namespace must not be provided for a cluster-scoped `paramKind`")
	case row.ClusterScoped:
		return "", nil
	case ref.Namespace != "":
		return ref.Namespace, nil
	case a.Namespace == "":
		return "", errors.New("cannot use namespaced paramRef in policy binding that matches cluster-scoped resources")
	}
	return a.Namespace, nil
}

func paramObjects(ctx context.Context, c resource.Cluster, row *resource.Resource, namespace string, ref *admissionregistrationv1.ParamRef) ([]resource.Object, error) {
	if ref.Name != "" {
		obj, err := c.Get(ctx, row, namespace, ref.Name)
		if apierrors.IsNotFound(err) {
			return nil, nil
		}
		return []resource.Object{obj}, err
	}
	selector, err := metav1.LabelSelectorAsSelector(ref.Selector)
	if err != nil {
		return nil, err
	}
	all, err := c.List(ctx, row, namespace)
	if err != nil {
		return nil, err
	}
	var selected []resource.Object
	for _, obj := range all {
		if selector.Matches(labels.Set(obj.GetLabels())) {
			selected = append(selected, obj)
		}
	}
	return selected, nil
}

// seen is a stored object as expressions see it, in the version of row.
func seen(row *resource.Resource, obj resource.Object) (map[string]any, error) {
	converted, err := row.FromStored(obj)
	if err != nil {
		return nil, err
	}
	return matching.AsMap(codec.As(converted, row.GVK()))
}
