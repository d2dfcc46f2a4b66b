package admission

import (
	"context"
	"strings"

	corev1 "k8s.io/api/core/v1"
	utilversion "k8s.io/apimachinery/pkg/util/version"
	"k8s.io/component-helpers/nodedeclaredfeatures"

	"github.com/skiff-k8s/skiff/apiserver/version"
)

// nodeDeclaredFeatureValidator refuses changes of a pod that its node does not declare to be able to make, as resizes
// of the whole pod or of init containers are (KEP-5328). Which change needs which feature is told by the library that
// kubelets of Kubernetes declare by.
func nodeDeclaredFeatureValidator() Plugin {
	features, ours := nodedeclaredfeatures.DefaultFramework, utilversion.MustParse(version.Kubernetes)
	return Plugin{Name: "NodeDeclaredFeatureValidator", Validate: func(ctx context.Context, a *Attributes) error {
		pod, ok := a.New.(*corev1.Pod)
		old, wasOne := a.Old.(*corev1.Pod)
		if !ok || !wasOne || a.Verb != update || a.Subresource != "" && a.Subresource != "resize" ||
			pod.Spec.NodeName == "" || pod.Generation == old.Generation {
			return nil
		}
		needs, err := features.InferForPodUpdate(podInfo(old), podInfo(pod), ours)
		if err != nil {
			return a.forbid("failed to infer pod capability requirements: %w", err)
		}
		if needs.IsEmpty() {
			return nil
		}
		node, err := nodeOf(ctx, a, pod)
		if err != nil {
			return err
		}
		found, err := features.MatchNode(needs, node)
		switch {
		case err != nil:
			return a.forbid("failed to match pod requirements against node %q: %w", node.Name, err)
		case !found.IsMatch:
			return a.forbid("pod update requires features %s which are not available on node %q", strings.Join(found.UnsatisfiedRequirements, ", "), node.Name)
		}
		return nil
	}}
}

func podInfo(p *corev1.Pod) *nodedeclaredfeatures.PodInfo {
	return &nodedeclaredfeatures.PodInfo{Spec: &p.Spec, Status: &p.Status}
}
