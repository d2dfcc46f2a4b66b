package runtime

import (
	"encoding/json"
	"fmt"
	"hash/fnv"
	"maps"
	"strconv"

	v1 "k8s.io/api/core/v1"
)

// Names of labels and annotations on sandboxes and containers, fixed by the upstream kubelet.
const (
	LabelPodName       = "io.kubernetes.pod.name"
	LabelPodNamespace  = "io.kubernetes.pod.namespace"
	LabelPodUID        = "io.kubernetes.pod.uid"
	LabelContainerName = "io.kubernetes.container.name"

	annotationHash          = "io.kubernetes.container.hash"
	annotationRestartCount  = "io.kubernetes.container.restartCount"
	annotationMessagePath   = "io.kubernetes.container.terminationMessagePath"
	annotationMessagePolicy = "io.kubernetes.container.terminationMessagePolicy"
	annotationPreStop       = "io.kubernetes.container.preStopHandler"
	annotationPorts         = "io.kubernetes.container.ports"
	annotationGrace         = "io.kubernetes.pod.terminationGracePeriod"
	annotationDeletionGrace = "io.kubernetes.pod.deletionGracePeriod"
)

// SandboxLabels are the pod's labels and the three that find the pod again.
func SandboxLabels(pod *v1.Pod) map[string]string {
	labels := map[string]string{}
	maps.Copy(labels, pod.Labels)
	labels[LabelPodName] = pod.Name
	labels[LabelPodNamespace] = pod.Namespace
	labels[LabelPodUID] = string(pod.UID)
	return labels
}

// ContainerLabels find a container again.
func ContainerLabels(pod *v1.Pod, container string) map[string]string {
	return map[string]string{
		LabelPodName:       pod.Name,
		LabelPodNamespace:  pod.Namespace,
		LabelPodUID:        string(pod.UID),
		LabelContainerName: container,
	}
}

// ContainerAnnotations keep with the container what a later kubelet needs to judge and to end it, even
// when the pod is gone from the API.
func ContainerAnnotations(pod *v1.Pod, c *v1.Container, restarts int) map[string]string {
	a := map[string]string{
		annotationHash:          Hash(c),
		annotationRestartCount:  strconv.Itoa(restarts),
		annotationMessagePath:   c.TerminationMessagePath,
		annotationMessagePolicy: string(c.TerminationMessagePolicy),
	}
	if g := pod.DeletionGracePeriodSeconds; g != nil {
		a[annotationDeletionGrace] = strconv.FormatInt(*g, 10)
	}
	if g := pod.Spec.TerminationGracePeriodSeconds; g != nil {
		a[annotationGrace] = strconv.FormatInt(*g, 10)
	}
	if c.Lifecycle != nil && c.Lifecycle.PreStop != nil {
		if raw, err := json.Marshal(c.Lifecycle.PreStop); err == nil {
			a[annotationPreStop] = string(raw)
		}
	}
	if len(c.Ports) > 0 {
		if raw, err := json.Marshal(c.Ports); err == nil {
			a[annotationPorts] = string(raw)
		}
	}
	return a
}

// Hash changes when a container must be made anew for its changed definition: with its image, the only
// part of a container that the API lets change without a resize.
func Hash(c *v1.Container) string {
	h := fnv.New32a()
	fmt.Fprintf(h, "%q %q", c.Name, c.Image)
	return strconv.FormatUint(uint64(h.Sum32()), 16)
}

// restoredContainer is the container's definition as far as its annotations tell.
func restoredContainer(name string, annotations map[string]string) *v1.Container {
	c := &v1.Container{
		Name:                     name,
		TerminationMessagePath:   annotations[annotationMessagePath],
		TerminationMessagePolicy: v1.TerminationMessagePolicy(annotations[annotationMessagePolicy]),
	}
	var hook v1.LifecycleHandler
	if raw := annotations[annotationPreStop]; raw != "" && json.Unmarshal([]byte(raw), &hook) == nil {
		c.Lifecycle = &v1.Lifecycle{PreStop: &hook}
	}
	if raw := annotations[annotationPorts]; raw != "" {
		// Ports only name the target of an HTTP hook; without them a numbered port still works.
		_ = json.Unmarshal([]byte(raw), &c.Ports)
	}
	return c
}
