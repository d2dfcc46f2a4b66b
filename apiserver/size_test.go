package apiserver_test

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"

	"github.com/skiff-k8s/skiff/apiserver/apiservertest"
	"github.com/skiff-k8s/skiff/apiserver/backend"
)

// deployment has a template with a variable of size bytes.
func deployment(name string, size int) *appsv1.Deployment {
	labels := map[string]string{"app": name}
	return &appsv1.Deployment{
		TypeMeta:   metav1.TypeMeta{APIVersion: "apps/v1", Kind: "Deployment"},
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name},
		Spec: appsv1.DeploymentSpec{
			Selector: &metav1.LabelSelector{MatchLabels: labels},
			Template: corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: labels}, Spec: corev1.PodSpec{
				Containers: []corev1.Container{{Name: "c", Image: "a", Env: []corev1.EnvVar{variable("LARGE", size)}}},
			}},
		},
	}
}

func variable(name string, size int) corev1.EnvVar {
	return corev1.EnvVar{Name: name, Value: strings.Repeat("x", size)}
}

func pod(name string, containers int) *corev1.Pod {
	p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: name}}
	for i := range containers {
		p.Spec.Containers = append(p.Spec.Containers, corev1.Container{Name: fmt.Sprint("c", i), Image: "a"})
	}
	return p
}

func letters(t *testing.T, v any) []byte {
	t.Helper()
	data, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// tooLarge is what kube-apiserver answers when etcd refuses an object: 500
// without a reason, and etcd's words.
func tooLarge(t *testing.T, what string, err error) {
	t.Helper()
	status, ok := err.(apierrors.APIStatus)
	if !ok {
		t.Errorf("%s: got %v, want a status", what, err)
		return
	}
	if s := status.Status(); s.Code != http.StatusInternalServerError || s.Reason != "" || s.Message != "etcdserver: request is too large" || s.Details != nil {
		t.Errorf("%s: got %+v, want 500, etcdserver: request is too large", what, s)
	}
}

// What is larger than etcd takes is not stored, by whichever way it comes.
func TestTooLarge(t *testing.T) {
	s := apiservertest.Start(t, nil)
	client := kubernetes.NewForConfigOrDie(apiservertest.Config(s, "admin"))
	deployments, pods := client.AppsV1().Deployments("default"), client.CoreV1().Pods("default")
	ctx := t.Context()
	if _, err := client.CoreV1().ServiceAccounts("default").Create(ctx, &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: "default"}}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	small, err := deployments.Create(ctx, deployment("small", 10), metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	large := deployment("small", backend.MaxValue)
	patch := func(kind types.PatchType, body any, options metav1.PatchOptions) error {
		_, err := deployments.Patch(ctx, "small", kind, letters(t, body), options)
		return err
	}
	spec := map[string]any{"spec": large.Spec}
	force, apply := true, deployment("new", backend.MaxValue)
	for _, c := range []struct {
		name  string
		write func() error
	}{
		{"create", func() error {
			_, err := deployments.Create(ctx, deployment("large", backend.MaxValue), metav1.CreateOptions{})
			return err
		}},
		{"create a pod of 30,000 containers", func() error {
			_, err := pods.Create(ctx, pod("large", 30_000), metav1.CreateOptions{})
			return err
		}},
		{"update", func() error {
			_, err := deployments.Update(ctx, large, metav1.UpdateOptions{})
			return err
		}},
		{"merge patch", func() error { return patch(types.MergePatchType, spec, metav1.PatchOptions{}) }},
		{"strategic merge patch", func() error { return patch(types.StrategicMergePatchType, spec, metav1.PatchOptions{}) }},
		{"JSON patch", func() error {
			return patch(types.JSONPatchType, []any{map[string]any{"op": "replace", "path": "/spec", "value": large.Spec}}, metav1.PatchOptions{})
		}},
		{"apply", func() error {
			return patch(types.ApplyYAMLPatchType, large, metav1.PatchOptions{FieldManager: "a", Force: &force})
		}},
		{"apply of a new one", func() error {
			_, err := deployments.Patch(ctx, "new", types.ApplyYAMLPatchType, letters(t, apply), metav1.PatchOptions{FieldManager: "a"})
			return err
		}},
		{"a controller in process", func() error {
			d := deployment("inside", backend.MaxValue)
			_, err := s.Cluster().Create(ctx, s.Cluster().Resource("apps", "deployments"), d)
			return err
		}},
	} {
		tooLarge(t, c.name, c.write())
	}
	if _, err := deployments.Create(ctx, deployment("dry", backend.MaxValue), metav1.CreateOptions{DryRun: []string{"All"}}); err != nil {
		t.Errorf("a dry run, which stores nothing: %v", err)
	}
	list, err := deployments.List(ctx, metav1.ListOptions{})
	if err != nil || len(list.Items) != 1 || list.Items[0].ResourceVersion != small.ResourceVersion {
		t.Errorf("afterwards: %d deployments, %v, want the small one as it was", len(list.Items), err)
	}
}

// Patches that are small each do not add up to more than may be stored.
func TestPatchesAddUp(t *testing.T) {
	client := kubernetes.NewForConfigOrDie(apiservertest.Config(apiservertest.Start(t, nil), "admin"))
	deployments := client.AppsV1().Deployments("default")
	if _, err := deployments.Create(t.Context(), deployment("grows", 1), metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	patch := letters(t, []any{map[string]any{"op": "add", "path": "/spec/template/spec/containers/0/env/-", "value": variable("MORE", 400_000)}})
	for n := range 10 {
		p, err := deployments.Patch(t.Context(), "grows", types.JSONPatchType, patch, metav1.PatchOptions{})
		if err == nil {
			if size := p.Size(); size > backend.MaxValue {
				t.Fatalf("after %d patches the object has %d bytes", n+1, size)
			}
			continue
		}
		if n < 3 {
			t.Errorf("patch %d: %v", n+1, err)
		}
		tooLarge(t, "the last patch", err)
		return
	}
	t.Error("ten patches were taken")
}

// Where it helps, an object is stored without the managers of its fields; not
// by an apply, which needs them.
func TestManagersMakeRoom(t *testing.T) {
	client := kubernetes.NewForConfigOrDie(apiservertest.Config(apiservertest.Start(t, nil), "admin"))
	deployments := client.AppsV1().Deployments("default")
	// Each annotation is a field that is managed.
	annotated := func(name string, size int) *appsv1.Deployment {
		d := deployment(name, size)
		d.Annotations = map[string]string{}
		for i := range 2000 {
			d.Annotations[fmt.Sprintf("%063d", i)] = "x"
		}
		return d
	}
	n := backend.MaxValue - 10_000 - annotated("", 0).Size()
	for what, write := range map[string]func(ctx context.Context) (*appsv1.Deployment, error){
		"create": func(ctx context.Context) (*appsv1.Deployment, error) {
			return deployments.Create(ctx, annotated("created", n), metav1.CreateOptions{})
		},
		"update": func(ctx context.Context) (*appsv1.Deployment, error) {
			if p, err := deployments.Create(ctx, annotated("updated", 1), metav1.CreateOptions{}); err != nil || len(p.ManagedFields) == 0 {
				return p, fmt.Errorf("create a small one: %w", err)
			}
			return deployments.Update(ctx, annotated("updated", n), metav1.UpdateOptions{})
		},
		"patch": func(ctx context.Context) (*appsv1.Deployment, error) {
			if _, err := deployments.Create(ctx, annotated("patched", 1), metav1.CreateOptions{}); err != nil {
				return nil, err
			}
			return deployments.Patch(ctx, "patched", types.MergePatchType, letters(t, map[string]any{"spec": annotated("patched", n).Spec}), metav1.PatchOptions{})
		},
	} {
		p, err := write(t.Context())
		if err != nil || len(p.ManagedFields) != 0 || len(p.Spec.Template.Spec.Containers[0].Env[0].Value) != n {
			t.Errorf("%s: got %d managers, %v, want the object without managers", what, len(p.ManagedFields), err)
		}
	}
	_, err := deployments.Patch(t.Context(), "applied", types.ApplyYAMLPatchType, letters(t, annotated("applied", n)), metav1.PatchOptions{FieldManager: "a"})
	tooLarge(t, "apply", err)
}
