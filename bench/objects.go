package main

import (
	"context"
	"fmt"

	v1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
)

// prepare makes the step's namespace with what a controller would put in it:
// pods need a service account.
func (l *load) prepare(ctx context.Context) error {
	core := l.clients[0].CoreV1()
	_, err := core.Namespaces().Create(ctx, &v1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: l.space}}, metav1.CreateOptions{})
	if apierrors.IsAlreadyExists(err) {
		return nil
	}
	if err != nil {
		return err
	}
	_, err = core.ServiceAccounts(l.space).Create(ctx, &v1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: "default"}}, metav1.CreateOptions{})
	return err
}

func podName(n int) string { return fmt.Sprintf("shop-7d9f8c6b5-%05d", n) }

// pod is what a Deployment's pod commonly has.
func pod(n int) *v1.Pod {
	labels := map[string]string{"shard": fmt.Sprint(n % 50), "app": "shop", "tier": "backend", "pod-template-hash": "7d9f8c6b5"}
	probe := &v1.Probe{ProbeHandler: v1.ProbeHandler{HTTPGet: &v1.HTTPGetAction{Path: "/healthz", Port: intstr.FromInt32(8080)}}}
	return &v1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: podName(n), Labels: labels, Annotations: map[string]string{"prometheus.io/scrape": "true"}},
		Spec: v1.PodSpec{
			NodeName: fmt.Sprintf("node-%d", n%50),
			Containers: []v1.Container{{
				Name: "shop", Image: "registry.example/shop/backend:1.42.0",
				Ports: []v1.ContainerPort{{Name: "http", ContainerPort: 8080}},
				Env: []v1.EnvVar{
					{Name: "DATABASE", Value: "postgres://shop@database.shop.svc:5432/shop"},
					{Name: "POD", ValueFrom: &v1.EnvVarSource{FieldRef: &v1.ObjectFieldSelector{FieldPath: "metadata.name"}}},
				},
				Resources: v1.ResourceRequirements{
					Requests: v1.ResourceList{v1.ResourceCPU: resource.MustParse("100m"), v1.ResourceMemory: resource.MustParse("128Mi")},
					Limits:   v1.ResourceList{v1.ResourceMemory: resource.MustParse("256Mi")},
				},
				ReadinessProbe: probe, LivenessProbe: probe,
				VolumeMounts: []v1.VolumeMount{{Name: "settings", MountPath: "/etc/shop"}},
			}},
			Volumes: []v1.Volume{{Name: "settings", VolumeSource: v1.VolumeSource{ConfigMap: &v1.ConfigMapVolumeSource{
				LocalObjectReference: v1.LocalObjectReference{Name: "shop"},
			}}}},
		},
	}
}
