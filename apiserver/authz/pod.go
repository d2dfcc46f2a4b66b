package authz

import (
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/dynamic-resource-allocation/resourceclaim"
)

// References are names of objects in the namespace of a pod.
type References struct{ Secrets, ConfigMaps, Claims, DeviceClaims sets.Set[string] }

// PodReferences lists the objects the kubelet must read to run p.
func PodReferences(p *corev1.Pod) References {
	r := References{sets.New[string](), sets.New[string](), sets.New[string](), sets.New[string]()}
	for _, s := range p.Spec.ImagePullSecrets {
		r.Secrets.Insert(s.Name)
	}
	for _, c := range p.Spec.InitContainers {
		r.environment(c.Env, c.EnvFrom)
	}
	for _, c := range p.Spec.Containers {
		r.environment(c.Env, c.EnvFrom)
	}
	for _, c := range p.Spec.EphemeralContainers {
		r.environment(c.Env, c.EnvFrom)
	}
	for _, v := range p.Spec.Volumes {
		r.volume(p.Name, v)
	}
	for i := range p.Spec.ResourceClaims {
		// A claim that is yet to be made has no name, nor has one that is not needed.
		if name, _, err := resourceclaim.Name(p, &p.Spec.ResourceClaims[i]); err == nil && name != nil {
			r.DeviceClaims.Insert(*name)
		}
	}
	if s := p.Status.ExtendedResourceClaimStatus; s != nil && s.ResourceClaimName != "" {
		r.DeviceClaims.Insert(s.ResourceClaimName)
	}
	return r
}

func (r References) environment(env []corev1.EnvVar, from []corev1.EnvFromSource) {
	for _, e := range env {
		if e.ValueFrom == nil {
			continue
		}
		if s := e.ValueFrom.SecretKeyRef; s != nil {
			r.Secrets.Insert(s.Name)
		}
		if c := e.ValueFrom.ConfigMapKeyRef; c != nil {
			r.ConfigMaps.Insert(c.Name)
		}
	}
	for _, f := range from {
		if f.SecretRef != nil {
			r.Secrets.Insert(f.SecretRef.Name)
		}
		if f.ConfigMapRef != nil {
			r.ConfigMaps.Insert(f.ConfigMapRef.Name)
		}
	}
}

func (r References) volume(pod string, v corev1.Volume) {
	secret := func(ref *corev1.LocalObjectReference) {
		if ref != nil {
			r.Secrets.Insert(ref.Name)
		}
	}
	switch {
	case v.Secret != nil:
		r.Secrets.Insert(v.Secret.SecretName)
	case v.ConfigMap != nil:
		r.ConfigMaps.Insert(v.ConfigMap.Name)
	case v.PersistentVolumeClaim != nil:
		r.Claims.Insert(v.PersistentVolumeClaim.ClaimName)
	case v.Ephemeral != nil:
		// KEP-1698: the claim of a generic ephemeral volume is named after both.
		r.Claims.Insert(pod + "-" + v.Name)
	case v.Projected != nil:
		for _, s := range v.Projected.Sources {
			if s.Secret != nil {
				r.Secrets.Insert(s.Secret.Name)
			}
			if s.ConfigMap != nil {
				r.ConfigMaps.Insert(s.ConfigMap.Name)
			}
		}
	case v.CSI != nil:
		secret(v.CSI.NodePublishSecretRef)
	case v.FlexVolume != nil:
		secret(v.FlexVolume.SecretRef)
	case v.ISCSI != nil:
		secret(v.ISCSI.SecretRef)
	case v.CephFS != nil:
		secret(v.CephFS.SecretRef)
	case v.RBD != nil:
		secret(v.RBD.SecretRef)
	case v.ScaleIO != nil:
		secret(v.ScaleIO.SecretRef)
	case v.StorageOS != nil:
		secret(v.StorageOS.SecretRef)
	case v.Cinder != nil:
		secret(v.Cinder.SecretRef)
	case v.AzureFile != nil:
		r.Secrets.Insert(v.AzureFile.SecretName)
	}
}
