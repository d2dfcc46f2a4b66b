// Package podspec holds what all kinds with a pod template share: the defaults
// of a pod spec, its validation, its warnings. The rules are those of the
// Kubernetes API v1.36 with its default feature gates; messages are the API's,
// because clients and their tests read them.
//
// Nothing here knows a resource row: the kinds call Default…, Validate… and
// Warn… with the path of their template.
package podspec

import (
	"maps"
	"strings"

	v1 "k8s.io/api/core/v1"
)

// initContainerAnnotations were how init containers were written before they
// were fields. The API drops them, whoever sends them.
var initContainerAnnotations = []string{
	"pod.beta.kubernetes.io/init-container-statuses",
	"pod.alpha.kubernetes.io/init-container-statuses",
	"pod.beta.kubernetes.io/init-containers",
	"pod.alpha.kubernetes.io/init-containers",
}

// DropInitAnnotations returns annotations without the long gone ones that held
// init containers. It returns its argument when there is nothing to drop, and
// does not change it.
func DropInitAnnotations(annotations map[string]string) map[string]string {
	cloned := false
	for _, key := range initContainerAnnotations {
		if _, ok := annotations[key]; !ok {
			continue
		}
		if !cloned {
			annotations, cloned = maps.Clone(annotations), true
		}
		delete(annotations, key)
	}
	return annotations
}

// containers calls visit with every container of a spec: init containers,
// containers, and ephemeral containers seen as containers.
func containers(spec *v1.PodSpec, visit func(c *v1.Container)) {
	for i := range spec.InitContainers {
		visit(&spec.InitContainers[i])
	}
	for i := range spec.Containers {
		visit(&spec.Containers[i])
	}
	for i := range spec.EphemeralContainers {
		visit((*v1.Container)(&spec.EphemeralContainers[i].EphemeralContainerCommon))
	}
}

// IsHugePages reports whether a resource counts huge pages of some size.
func IsHugePages(name v1.ResourceName) bool {
	return strings.HasPrefix(string(name), v1.ResourceHugePagesPrefix)
}
