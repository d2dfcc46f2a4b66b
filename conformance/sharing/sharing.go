// Package sharing runs kube-apiserver and Skiff on one etcd, one after the other and at once, in tests: what one of
// them stores, the other finds, sees by watch and goes on with.
package sharing
