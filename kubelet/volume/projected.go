package volume

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"

	v1 "k8s.io/api/core/v1"
)

// projectedFiles joins the files of all sources; of two with one path the later counts.
func projectedFiles(ctx context.Context, v *volume) (map[string]file, error) {
	files := map[string]file{}
	var errs []error
	for i := range v.Projected.Sources {
		more, err := v.fromSource(ctx, &v.Projected.Sources[i])
		if err != nil {
			errs = append(errs, err)
			continue
		}
		maps.Copy(files, more)
	}
	return files, errors.Join(errs...)
}

func (v *volume) fromSource(ctx context.Context, s *v1.VolumeProjection) (map[string]file, error) {
	mode := v.Projected.DefaultMode
	switch {
	case s.ConfigMap != nil:
		return v.fromConfigMap(ctx, s.ConfigMap.Name, s.ConfigMap.Items, mode, s.ConfigMap.Optional)
	case s.Secret != nil:
		return v.fromSecret(ctx, s.Secret.Name, s.Secret.Items, mode, s.Secret.Optional)
	case s.DownwardAPI != nil:
		return v.fromPod(s.DownwardAPI.Items, mode)
	case s.ServiceAccountToken != nil:
		return v.fromToken(ctx, s.ServiceAccountToken, mode)
	case s.ClusterTrustBundle != nil:
		return nil, errors.New("clusterTrustBundle projections are not supported by this node")
	case s.PodCertificate != nil:
		return nil, errors.New("podCertificate projections are not supported by this node")
	}
	return nil, fmt.Errorf("a source of projected volume %s has no type this node knows", v.Name)
}

// fromToken is a service account token that is bound to the pod.
func (v *volume) fromToken(ctx context.Context, s *v1.ServiceAccountTokenProjection, mode *int32) (map[string]file, error) {
	token, err := v.m.tokens.get(ctx, v.pod, s)
	if err != nil {
		return nil, err
	}
	f := file{data: []byte(token), mode: fileMode(mode)}
	// A token is for its reader alone: of the one user that the pod runs as, or of the group.
	f.owner = onlyUser(v.pod)
	if f.owner != nil || v.fsGroup() != nil {
		f.mode = 0o600
	}
	return map[string]file{s.Path: f}, nil
}

// onlyUser is the user that all containers of the pod run as, nil when they differ or do not say.
func onlyUser(pod *v1.Pod) *int64 {
	var user *int64
	for _, c := range slices.Concat(pod.Spec.InitContainers, pod.Spec.Containers) {
		runAs := runAsUser(pod, &c)
		if runAs == nil || user != nil && *user != *runAs {
			return nil
		}
		user = runAs
	}
	return user
}

func runAsUser(pod *v1.Pod, c *v1.Container) *int64 {
	if c.SecurityContext != nil && c.SecurityContext.RunAsUser != nil {
		return c.SecurityContext.RunAsUser
	}
	if pod.Spec.SecurityContext != nil {
		return pod.Spec.SecurityContext.RunAsUser
	}
	return nil
}

// containersOf are all containers of the pod, of every kind.
func containersOf(pod *v1.Pod) []*v1.Container {
	var all []*v1.Container
	for i := range pod.Spec.InitContainers {
		all = append(all, &pod.Spec.InitContainers[i])
	}
	for i := range pod.Spec.Containers {
		all = append(all, &pod.Spec.Containers[i])
	}
	for i := range pod.Spec.EphemeralContainers {
		c := v1.Container(pod.Spec.EphemeralContainers[i].EphemeralContainerCommon)
		all = append(all, &c)
	}
	return all
}
