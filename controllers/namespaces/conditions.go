package namespaces

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// conditions tells what a pass found, one condition of each type in a fixed order.
func (c *content) conditions() []corev1.NamespaceCondition {
	conditions := []corev1.NamespaceCondition{
		fine(corev1.NamespaceDeletionDiscoveryFailure, "ResourcesDiscovered", "All resources successfully discovered"),
		fine(corev1.NamespaceDeletionGVParsingFailure, "ParsedGroupVersions", "All legacy kube types successfully parsed"),
		fine(corev1.NamespaceDeletionContentFailure, "ContentDeleted", "All content successfully deleted, may be waiting on finalization"),
		fine(corev1.NamespaceContentRemaining, "ContentRemoved", "All content successfully removed"),
		fine(corev1.NamespaceFinalizersRemaining, "ContentHasNoFinalizers", "All content-preserving finalizers finished"),
	}
	if c.discovery != nil {
		conditions[0] = trouble(corev1.NamespaceDeletionDiscoveryFailure, "DiscoveryFailed", discoveryMessage(c.discovery))
	}
	if n := len(c.failures); n > 0 {
		messages := make([]string, 0, n)
		for _, err := range c.failures {
			messages = append(messages, err.Error())
		}
		slices.Sort(messages)
		conditions[2] = trouble(corev1.NamespaceDeletionContentFailure, "ContentDeletionFailed",
			fmt.Sprintf("Failed to delete all resource types, %d remaining: %v", n, strings.Join(messages, ", ")))
	}
	if len(c.remaining) > 0 {
		conditions[3] = trouble(corev1.NamespaceContentRemaining, "SomeResourcesRemain",
			"Some resources are remaining: "+listing(c.remaining, func(r schema.GroupVersionResource, n int) string {
				return fmt.Sprintf("%s.%s has %d resource instances", r.Resource, r.Group, n)
			}))
	}
	if len(c.finalizers) > 0 {
		conditions[4] = trouble(corev1.NamespaceFinalizersRemaining, "SomeFinalizersRemain",
			"Some content in the namespace has finalizers remaining: "+listing(c.finalizers, func(f string, n int) string {
				return fmt.Sprintf("%s in %d resource instances", f, n)
			}))
	}
	return conditions
}

func listing[K comparable](counts map[K]int, word func(K, int) string) string {
	words := make([]string, 0, len(counts))
	for key := range maps.Keys(counts) {
		words = append(words, word(key, counts[key]))
	}
	slices.Sort(words)
	return strings.Join(words, ", ")
}

func fine(kind corev1.NamespaceConditionType, reason, message string) corev1.NamespaceCondition {
	return corev1.NamespaceCondition{Type: kind, Status: corev1.ConditionFalse, Reason: reason, Message: message}
}

func trouble(kind corev1.NamespaceConditionType, reason, message string) corev1.NamespaceCondition {
	return corev1.NamespaceCondition{Type: kind, Status: corev1.ConditionTrue, Reason: reason, Message: message}
}

// mergeConditions replaces conditions of the same type and keeps all others; a transition is a change of status.
func mergeConditions(has, now []corev1.NamespaceCondition, at time.Time) []corev1.NamespaceCondition {
	merged := slices.Clone(has)
	for _, c := range now {
		c.LastTransitionTime = metav1.NewTime(at)
		i := slices.IndexFunc(merged, func(old corev1.NamespaceCondition) bool { return old.Type == c.Type })
		if i < 0 {
			merged = append(merged, c)
			continue
		}
		if merged[i].Status == c.Status {
			c.LastTransitionTime = merged[i].LastTransitionTime
		}
		merged[i] = c
	}
	return merged
}
