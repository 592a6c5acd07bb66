-- Suppliers who kept orders waiting: NATION = SAUDI ARABIA
SELECT s_name, count(*) AS numwait
FROM tpch.supplier, tpch.lineitem AS l1, tpch.orders, tpch.nation,
    (
        SELECT l_orderkey AS of_order, min(l_suppkey) AS first_supplier, max(l_suppkey) AS last_supplier
        FROM tpch.lineitem
        GROUP BY l_orderkey
    ) AS everyone,
    (
        SELECT l_orderkey AS late_order, min(l_suppkey) AS first_late, max(l_suppkey) AS last_late
        FROM tpch.lineitem
        WHERE l_receiptdate > l_commitdate
        GROUP BY l_orderkey
    ) AS late
WHERE s_suppkey = l1.l_suppkey
    AND o_orderkey = l1.l_orderkey
    AND o_orderstatus = 'F'
    AND l1.l_receiptdate > l1.l_commitdate
    AND of_order = l1.l_orderkey
    AND everyone.first_supplier <> everyone.last_supplier
    AND late_order = l1.l_orderkey
    AND late.first_late = late.last_late
    AND s_nationkey = n_nationkey
    AND n_name = 'SAUDI ARABIA'
GROUP BY s_name
ORDER BY numwait DESC, s_name
LIMIT 100
