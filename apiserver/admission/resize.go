package admission

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"strings"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	resourcehelper "k8s.io/component-helpers/resource"
)

// persistentVolumeClaimResize lets only claims grow whose class says that its
// volumes can.
func persistentVolumeClaimResize() Plugin {
	return Plugin{Name: "PersistentVolumeClaimResize", Validate: func(ctx context.Context, a *Attributes) error {
		claim, ok := a.New.(*corev1.PersistentVolumeClaim)
		old, wasOne := a.Old.(*corev1.PersistentVolumeClaim)
		if !ok || !wasOne || a.Subresource != "" || a.Verb != update {
			return nil
		}
		size, before := claim.Spec.Resources.Requests.Storage(), old.Spec.Resources.Requests.Storage()
		switch {
		case size.Cmp(*before) <= 0:
			return nil
		case old.Status.Phase != corev1.ClaimBound:
			return a.forbid("Only bound persistent volume claims can be expanded")
		case !expandable(ctx, a, claim, old):
			return a.forbid("only dynamically provisioned pvc can be resized and the storageclass that provisions the pvc must support resize")
		}
		return nil
	}}
}

func expandable(ctx context.Context, a *Attributes, claim, old *corev1.PersistentVolumeClaim) bool {
	name := classOf(claim)
	if name == "" || name != classOf(old) {
		return false
	}
	class, err := get[*storagev1.StorageClass](ctx, a.Cluster, storagev1.GroupName, "storageclasses", "", name)
	return err == nil && class.AllowVolumeExpansion != nil && *class.AllowVolumeExpansion
}

func classOf(claim *corev1.PersistentVolumeClaim) string {
	named := ""
	if claim.Spec.StorageClassName != nil {
		named = *claim.Spec.StorageClassName
	}
	return cmp.Or(claim.Annotations[corev1.BetaStorageClassAnnotation], named)
}

// The causes by which clients know why a pod cannot be resized (KEP-1287).
const (
	causeNodeCapacity        metav1.CauseType = "NodeCapacity"
	causeUnsupportedPlatform metav1.CauseType = "UnsupportedPlatform"
)

// podResizeValidator refuses to resize a running pod to more than its node has.
func podResizeValidator() Plugin {
	return Plugin{Name: "PodResizeValidator", Validate: func(ctx context.Context, a *Attributes) error {
		pod, ok := a.New.(*corev1.Pod)
		old, wasOne := a.Old.(*corev1.Pod)
		if !ok || !wasOne || a.Verb != update || a.Subresource != "resize" || pod.Spec.NodeName == "" || pod.Generation == old.Generation {
			return nil
		}
		node, err := nodeOf(ctx, a, pod)
		if err != nil {
			return err
		}
		if system, told := node.Labels[corev1.LabelOSStable]; told && system != "linux" {
			return because(causeUnsupportedPlatform, a.forbid("pod resize is only supported on linux nodes, node %q is %q", node.Name, system))
		}
		if lack := lackOf(node.Status.Allocatable, pod); lack != "" {
			return because(causeNodeCapacity, a.forbid("node didn't have enough allocatable resources: %s", lack))
		}
		return nil
	}}
}

// nodeOf is the node that a pod runs on; the error is a refusal.
func nodeOf(ctx context.Context, a *Attributes, pod *corev1.Pod) (*corev1.Node, error) {
	node, err := get[*corev1.Node](ctx, a.Cluster, "", "nodes", "", pod.Spec.NodeName)
	switch {
	case apierrors.IsNotFound(err):
		return nil, a.forbid("node %q not found", pod.Spec.NodeName)
	case err != nil:
		return nil, a.forbid("failed to get node %q: %w", pod.Spec.NodeName, err)
	}
	return node, nil
}

// lackOf says what a pod asks for beyond allocatable; "" if nothing.
func lackOf(allocatable corev1.ResourceList, pod *corev1.Pod) string {
	requests := resourcehelper.PodRequests(pod, resourcehelper.PodResourcesOptions{})
	var lacks []string
	if cpu, all := requests.Cpu(), allocatable.Cpu(); cpu.Cmp(*all) > 0 {
		lacks = append(lacks, fmt.Sprintf("cpu, requested: %d, allocatable: %d", cpu.MilliValue(), all.MilliValue()))
	}
	if memory, all := requests.Memory(), allocatable.Memory(); memory.Cmp(*all) > 0 {
		lacks = append(lacks, fmt.Sprintf("memory, requested: %d, allocatable: %d", memory.Value(), all.Value()))
	}
	return strings.Join(lacks, "; ")
}

// because adds a cause to a refusal.
func because(cause metav1.CauseType, err error) error {
	var status *apierrors.StatusError
	if errors.As(err, &status) {
		status.ErrStatus.Details.Causes = append(status.ErrStatus.Details.Causes, metav1.StatusCause{Type: cause})
	}
	return err
}
