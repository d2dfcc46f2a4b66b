package policy

import (
	"context"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"

	"github.com/skiff-k8s/skiff/apiserver/admission"
	"github.com/skiff-k8s/skiff/apiserver/admission/matching"
	"github.com/skiff-k8s/skiff/apiserver/expression"
	"github.com/skiff-k8s/skiff/apiserver/resource"
)

// write is a write as the policies that match it see it. What they see is made once for each version.
type write struct {
	*admission.Attributes
	config    *Config
	seen      map[*resource.Resource]*expression.Variables
	namespace map[string]any
	read      bool // the namespace is
}

func (p *Policies) newWrite(a *admission.Attributes) *write {
	return &write{Attributes: a, config: &p.config, seen: make(map[*resource.Resource]*expression.Variables)}
}

func (w *write) view(row *resource.Resource) matching.View {
	return matching.View{Attributes: w.Attributes, Row: row}
}

// changed forgets what was seen of the new object.
func (w *write) changed() { clear(w.seen) }

// about is the write in the version of row, without params and namespace.
func (w *write) about(row *resource.Resource) (*expression.Variables, error) {
	if v := w.seen[row]; v != nil {
		return v, nil
	}
	v := &expression.Variables{User: w.User, Authorizer: w.config.Authorizer,
		Target: expression.Target{Resource: w.Served().GVR(), Subresource: w.Subresource, Namespace: w.Namespace, Name: w.RequestName()}}
	view := w.view(row)
	var err error
	if v.Object, err = view.Map(w.New); err != nil {
		return nil, err
	}
	if v.OldObject, err = view.Map(w.Old); err != nil {
		return nil, err
	}
	if v.Request, err = view.RequestMap(row.GVR()); err != nil {
		return nil, err
	}
	w.seen[row] = v
	return v, nil
}

// with are v for one param. The namespace must have been read.
func (w *write) with(v *expression.Variables, p param) expression.Variables {
	all := *v
	all.Params, all.Namespace = p.object, w.namespace
	return all
}

// readNamespace reads the namespace of the object, unless that is one itself, or in none.
func (w *write) readNamespace(ctx context.Context) error {
	if w.read || w.Namespace == "" || w.Resource.IsNamespace() {
		return nil
	}
	obj, err := w.Cluster.Get(ctx, w.Cluster.Resource("", "namespaces"), "", w.Namespace)
	if err != nil {
		return err
	}
	namespace, ok := obj.(*corev1.Namespace)
	if !ok {
		return nil
	}
	m := namespace.ObjectMeta
	w.namespace, err = runtime.DefaultUnstructuredConverter.ToUnstructured(&corev1.Namespace{Spec: namespace.Spec, Status: namespace.Status,
		ObjectMeta: metav1.ObjectMeta{Name: m.Name, GenerateName: m.GenerateName, Namespace: m.Namespace, UID: m.UID, ResourceVersion: m.ResourceVersion,
			Generation: m.Generation, CreationTimestamp: m.CreationTimestamp, DeletionTimestamp: m.DeletionTimestamp,
			DeletionGracePeriodSeconds: m.DeletionGracePeriodSeconds, Labels: m.Labels, Annotations: m.Annotations, Finalizers: m.Finalizers}})
	w.read = err == nil
	return err
}

// meets evaluates the match conditions of a policy, which are told of the resource that was asked for, and of no namespace.
func (p *Policies) meets(ctx context.Context, w *write, d *definition, row *resource.Resource, v expression.Variables) (bool, error) {
	if len(d.compiled().conditions) == 0 {
		return true, nil
	}
	v.Namespace = nil
	if row != w.Served() {
		var err error
		if v.Request, err = w.view(row).RequestMap(w.Served().GVR()); err != nil {
			return false, err
		}
	}
	began := time.Now()
	meets, failed, err := d.compiled().meets(ctx, v)
	p.metrics.conditions(d.name, w.Verb, time.Since(began), failed)
	return meets, err
}
