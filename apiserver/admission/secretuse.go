package admission

import (
	"fmt"
	"iter"

	corev1 "k8s.io/api/core/v1"
)

// secretUse is a place where a pod names a secret that the list of secrets of
// its account is about. where begins the sentence about it.
type secretUse struct{ secret, where string }

// secretUses yields secret volumes and environment variables, in the order in
// which they are checked.
func secretUses(pod *corev1.Pod) iter.Seq[secretUse] {
	return func(yield func(secretUse) bool) {
		for _, v := range pod.Spec.Volumes {
			if v.Secret != nil && !yield(secretUse{v.Secret.SecretName, "volume with"}) {
				return
			}
		}
		for _, c := range containers(pod) {
			for _, use := range c.secrets() {
				if !yield(use) {
					return
				}
			}
		}
	}
}

// container is what all sorts of containers have of interest here.
type container struct {
	sort, name string
	env        []corev1.EnvVar
	from       []corev1.EnvFromSource
}

func containers(pod *corev1.Pod) []container {
	var list []container
	for _, c := range pod.Spec.InitContainers {
		list = append(list, container{"init container", c.Name, c.Env, c.EnvFrom})
	}
	for _, c := range pod.Spec.Containers {
		list = append(list, container{"container", c.Name, c.Env, c.EnvFrom})
	}
	for _, c := range pod.Spec.EphemeralContainers {
		list = append(list, container{"ephemeral container", c.Name, c.Env, c.EnvFrom})
	}
	return list
}

func (c container) secrets() []secretUse {
	var uses []secretUse
	for _, e := range c.env {
		if e.ValueFrom != nil && e.ValueFrom.SecretKeyRef != nil {
			uses = append(uses, secretUse{e.ValueFrom.SecretKeyRef.Name, fmt.Sprintf("%s %s with envVar %s referencing", c.sort, c.name, e.Name)})
		}
	}
	for _, f := range c.from {
		if f.SecretRef != nil {
			uses = append(uses, secretUse{f.SecretRef.Name, fmt.Sprintf("%s %s with envFrom referencing", c.sort, c.name)})
		}
	}
	return uses
}
