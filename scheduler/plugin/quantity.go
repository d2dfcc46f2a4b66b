package plugin

import "k8s.io/apimachinery/pkg/api/resource"

func milliCPU(n int64) *resource.Quantity { return resource.NewMilliQuantity(n, resource.DecimalSI) }

func bytes(n int64) *resource.Quantity { return resource.NewQuantity(n, resource.BinarySI) }
