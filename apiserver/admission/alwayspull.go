package admission

import (
	"context"

	corev1 "k8s.io/api/core/v1"
	utilerrors "k8s.io/apimachinery/pkg/util/errors"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// alwaysPullImages has every image pulled by every pod, so that a pod runs an image only if it may pull it, whoever pulled it before.
func alwaysPullImages() Plugin {
	return Plugin{Name: "AlwaysPullImages",
		Mutate: func(_ context.Context, a *Attributes) error {
			for _, p := range pullPolicies(a) {
				*p.policy = corev1.PullAlways
			}
			return nil
		},
		// Webhooks may have changed it since.
		Validate: func(_ context.Context, a *Attributes) error {
			var errs []error
			for _, p := range pullPolicies(a) {
				if *p.policy != corev1.PullAlways {
					errs = append(errs, a.Forbidden(field.NotSupported(p.at, *p.policy, []corev1.PullPolicy{corev1.PullAlways})))
				}
			}
			return utilerrors.NewAggregate(errs)
		},
	}
}

// pullPolicy is when an image of a pod is pulled.
type pullPolicy struct {
	at     *field.Path
	policy *corev1.PullPolicy
}

// pullPolicies are those of the pod that a writes, unless it is there already with the same images.
func pullPolicies(a *Attributes) []pullPolicy {
	pod, ok := a.New.(*corev1.Pod)
	if !ok || a.Verb != create && a.Verb != update || !a.is("", "pods") {
		return nil
	}
	old, _ := a.Old.(*corev1.Pod)
	if old != nil && !newImages(pod, old) {
		return nil
	}
	var all []pullPolicy
	at := field.NewPath("spec")
	for i := range pod.Spec.InitContainers {
		all = append(all, pullPolicy{at.Child("initContainers").Index(i).Child("imagePullPolicy"), &pod.Spec.InitContainers[i].ImagePullPolicy})
	}
	for i := range pod.Spec.Containers {
		all = append(all, pullPolicy{at.Child("containers").Index(i).Child("imagePullPolicy"), &pod.Spec.Containers[i].ImagePullPolicy})
	}
	for i := range pod.Spec.EphemeralContainers {
		all = append(all, pullPolicy{at.Child("ephemeralContainers").Index(i).Child("imagePullPolicy"), &pod.Spec.EphemeralContainers[i].ImagePullPolicy})
	}
	for i := range pod.Spec.Volumes {
		if image := pod.Spec.Volumes[i].Image; image != nil {
			all = append(all, pullPolicy{at.Child("volumes").Index(i).Child("image", "pullPolicy"), &image.PullPolicy})
		}
	}
	return all
}

func newImages(pod, old *corev1.Pod) bool {
	had := make(map[string]bool)
	for image := range images(old) {
		had[image] = true
	}
	for image := range images(pod) {
		if !had[image] {
			return true
		}
	}
	return false
}

// images calls yield with the image of each container.
func images(pod *corev1.Pod) func(yield func(string) bool) {
	return func(yield func(string) bool) {
		for _, containers := range [][]corev1.Container{pod.Spec.InitContainers, pod.Spec.Containers} {
			for _, c := range containers {
				if !yield(c.Image) {
					return
				}
			}
		}
		for _, c := range pod.Spec.EphemeralContainers {
			if !yield(c.Image) {
				return
			}
		}
	}
}
