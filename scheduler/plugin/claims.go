package plugin

import "fmt"

// claims refuses pods that ask for what this scheduler cannot give yet, rather
// than placing them where they could not start.
func claims(pod *Pod, _ *Snapshot) Check {
	if len(pod.Spec.ResourceClaims) > 0 {
		return Check{Never: "resource claims are not supported by this scheduler"}
	}
	for _, v := range pod.Spec.Volumes {
		if v.PersistentVolumeClaim != nil {
			return Check{Never: fmt.Sprintf("persistentvolumeclaim %q: persistent volumes are not supported by this scheduler", v.PersistentVolumeClaim.ClaimName)}
		}
		if v.Ephemeral != nil {
			return Check{Never: fmt.Sprintf("volume %q: ephemeral volumes are not supported by this scheduler", v.Name)}
		}
	}
	return Check{}
}
