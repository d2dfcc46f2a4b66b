// Package nodes holds the controllers that watch over nodes: health.go finds nodes that are lost and taints them,
// eviction.go deletes pods that do not tolerate the taints of their node, podgc.go deletes pods that nobody else
// will, cidr.go gives every node a range of pod addresses.
package nodes

import (
	"context"
	"encoding/json"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/record"

	"github.com/skiff-k8s/skiff/controllers/reconcile"
)

// Deps is what the controllers of this package are made of.
type Deps struct {
	Client    kubernetes.Interface
	Informers informers.SharedInformerFactory
	Recorder  func(component string) record.EventRecorder
	Workers   int
}

// nodeIndex finds pods by the node they are bound to.
const nodeIndex = "nodeName"

func indexByNode(pods cache.SharedIndexInformer) (cache.Indexer, error) {
	return reconcile.Index(pods, nodeIndex, func(obj any) ([]string, error) {
		pod, ok := obj.(*corev1.Pod)
		if !ok || pod.Spec.NodeName == "" {
			return nil, nil
		}
		return []string{pod.Spec.NodeName}, nil
	})
}

func podsOn(index cache.Indexer, node string) ([]*corev1.Pod, error) {
	return reconcile.Indexed[*corev1.Pod](index, nodeIndex, node)
}

// disrupt marks a pod as the victim of a disruption, so that a job need not count it as a failure (KEP-3329).
// A phase, if not empty, is set as well. A pod that is gone needs nothing.
func disrupt(ctx context.Context, client kubernetes.Interface, pod *corev1.Pod, phase corev1.PodPhase, reason, message string) error {
	for _, c := range pod.Status.Conditions {
		if c.Type == corev1.DisruptionTarget && c.Status == corev1.ConditionTrue && (phase == "" || phase == pod.Status.Phase) {
			return nil
		}
	}
	condition := corev1.PodCondition{
		Type: corev1.DisruptionTarget, Status: corev1.ConditionTrue, LastTransitionTime: metav1.Now(),
		Reason: reason, Message: message,
	}
	if pod.Status.ObservedGeneration != 0 {
		condition.ObservedGeneration = pod.Generation
	}
	status := map[string]any{"conditions": []corev1.PodCondition{condition}}
	if phase != "" {
		status["phase"] = phase
	}
	patch, err := json.Marshal(map[string]any{"metadata": map[string]any{"uid": pod.UID}, "status": status})
	if err != nil {
		return err
	}
	_, err = client.CoreV1().Pods(pod.Namespace).Patch(ctx, pod.Name, types.StrategicMergePatchType, patch, metav1.PatchOptions{}, "status")
	if err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("mark pod %s/%s: %w", pod.Namespace, pod.Name, err)
	}
	return nil
}

// deletePod deletes exactly this pod. A negative grace leaves the period to the pod.
func deletePod(ctx context.Context, client kubernetes.Interface, pod *corev1.Pod, grace int64) error {
	options := metav1.DeleteOptions{Preconditions: metav1.NewUIDPreconditions(string(pod.UID))}
	if grace >= 0 {
		options.GracePeriodSeconds = &grace
	}
	err := client.CoreV1().Pods(pod.Namespace).Delete(ctx, pod.Name, options)
	if err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("delete pod %s/%s: %w", pod.Namespace, pod.Name, err)
	}
	return nil
}

func finished(pod *corev1.Pod) bool {
	return pod.Status.Phase == corev1.PodSucceeded || pod.Status.Phase == corev1.PodFailed
}

func condition(node *corev1.Node, kind corev1.NodeConditionType) *corev1.NodeCondition {
	for i := range node.Status.Conditions {
		if node.Status.Conditions[i].Type == kind {
			return &node.Status.Conditions[i]
		}
	}
	return nil
}

// readiness is the status of a node's Ready condition, Unknown if it has none.
func readiness(node *corev1.Node) corev1.ConditionStatus {
	if c := condition(node, corev1.NodeReady); c != nil {
		return c.Status
	}
	return corev1.ConditionUnknown
}

// aboutNode refers to a node in events.
func aboutNode(node *corev1.Node) *corev1.ObjectReference {
	return &corev1.ObjectReference{APIVersion: "v1", Kind: "Node", Name: node.Name, UID: node.UID}
}
